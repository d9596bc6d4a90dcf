from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from launcher.errors import RequestError
from tests.processes import ROOT, clean_environment, launcher
from tests.recipes import standins
from tests.recipes.modules import module_of

RECIPE = ROOT / "recipes" / "sft"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}<|im_end|>\n{% endgeneration %}"
    "{% else %}{{ message.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORGETFUL = CHATML.replace("{{ message.content }}", "{{ message.content if loop.last else message.content[:3] }}")
TALK = [
    {"role": "system", "content": "be big"},
    {"role": "user", "content": "the cat 🐈 runs"},
    {"role": "assistant", "content": "it was a small dog 🐕"},
    {"role": "user", "content": "and the tree?"},
    {"role": "assistant", "content": "  under the house\n"},
]
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"]}


def write_model(folder: Path) -> Path:
    """A Llama of two layers, as `from_pretrained` loads it, and its tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    vocabulary = len(AutoTokenizer.from_pretrained(standins.tokenizer(folder, CHATML)))
    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2}
    LlamaForCausalLM(
        LlamaConfig(hidden_size=32, intermediate_size=64, vocab_size=vocabulary, tie_word_embeddings=True, **heads)
    ).save_pretrained(folder)
    return folder


def write_rows(path: Path, count: int) -> Path:
    """Prompts with completions and conversations in turn."""
    rows = []
    for number in range(count):
        question, answer = standins.text(1 + number % 3, number), standins.text(1, number)
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rows.append({"messages": messages} if number % 2 else {"prompt": question, "completion": answer})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def sft() -> ModuleType:
    return module_of(RECIPE / "task.py")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_model(folder / "model")
    write_rows(folder / "train.jsonl", 48)
    write_rows(folder / "eval.jsonl", 6)
    return folder


@pytest.fixture(scope="module")
def task(sft: ModuleType, files: Path) -> Any:
    return sft.Sft(str(files / "model"), str(files / "train.jsonl"), str(files / "eval.jsonl"))


@pytest.fixture
def tokenizer(sft: ModuleType, files: Path) -> Any:
    return sft.load_tokenizer(str(files / "model"))


def answers_in(tokenizer: Any, found: tuple[list[int], list[bool]]) -> list[str]:
    """The runs of tokens that are marked, as text."""
    runs: list[list[int]] = []
    previous = False
    for token, mark in zip(*found, strict=True):
        if mark and not previous:
            runs.append([])
        if mark:
            runs[-1].append(token)
        previous = mark
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("template", [CHATML, MARKED], ids=["prefixes", "generation"])
def test_answers_alone_are_trained_on(sft: ModuleType, tokenizer: Any, template: str) -> None:
    tokenizer.chat_template = template
    found = sft.conversation(tokenizer, TALK)
    assert tokenizer.decode(found[0]) == tokenizer.apply_chat_template(TALK, tokenize=False)
    assert answers_in(tokenizer, found) == [f"{turn['content']}<|im_end|>\n" for turn in TALK[2::2]]


def test_a_template_that_rewrites_earlier_turns_is_refused(sft: ModuleType, tokenizer: Any) -> None:
    tokenizer.chat_template = FORGETFUL
    with pytest.raises(ValueError, match=r"writes a turn otherwise once others follow it.*task.args.chat_template"):
        sft.conversation(tokenizer, TALK)


def test_a_completion_alone_is_trained_on(sft: ModuleType, tokenizer: Any) -> None:
    tokens, answers = sft.completion(tokenizer, "the cat", " runs")
    assert tokenizer.decode(tokens) == "the cat runs<|endoftext|>"
    assert answers_in(tokenizer, (tokens, answers)) == [" runs<|endoftext|>"]


def test_a_long_sample_is_cut(sft: ModuleType, tokenizer: Any) -> None:
    row = {"prompt": "the cat sees", "completion": standins.text(9)}
    whole, labels = sft.Samples([row], tokenizer, 10_000)[0]
    cut, kept = sft.Samples([row], tokenizer, 20)[0]
    assert torch.equal(cut, whole[:20])
    assert torch.equal(kept, labels[:20])
    assert set(sft.Samples([row], tokenizer, 2)[0][1].tolist()) == {sft.IGNORED}


def test_a_sample_of_another_kind_is_told(sft: ModuleType, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="it has text, id, but neither messages nor a prompt and its completion"):
        sft.Samples([{"text": "the", "id": 1}], tokenizer, 20)[0]


def test_padding_goes_to_the_longest_and_is_no_label(task: Any) -> None:
    samples = [task.train_data()[index] for index in range(3)]
    batch = task.collate(samples)
    lengths = [len(tokens) for tokens, _ in samples]
    assert len(set(lengths)) > 1
    assert {value.shape for value in batch.values()} == {(3, max(lengths))}
    assert batch["attention_mask"].sum(dim=1).tolist() == lengths
    assert set(batch["labels"][batch["attention_mask"] == 0].tolist()) == {-100}


def test_items_are_the_tokens_that_the_loss_is_over(task: Any) -> None:
    """After the shift: a first token that is a label would have nothing to be predicted from."""
    batch = {"labels": torch.tensor([[5, 6, -100], [-100, 7, 8]])}
    assert task.items(batch) == 3


def test_the_loss_is_the_models_own(task: Any) -> None:
    model = task.model().eval()
    tokens, labels = task.train_data()[1]
    batch = task.collate([(tokens, labels)])
    with torch.no_grad():
        loss = task.loss(model, batch)
        own = model(input_ids=tokens[None], labels=labels[None]).loss
    assert loss.reduction == "sum"
    assert float(loss.value) / task.items(batch) == pytest.approx(float(own), rel=1e-6)


def test_padding_changes_no_loss(task: Any) -> None:
    model = task.model().eval()
    samples = [task.train_data()[index] for index in range(4)]
    with torch.no_grad():
        together = float(task.loss(model, task.collate(samples)).value)
        alone = sum(float(task.loss(model, task.collate([sample])).value) for sample in samples)
        losses, real = task.evaluate(model, task.collate(samples))["loss"]
    assert together == pytest.approx(alone, rel=1e-5)
    assert float((losses * real).sum()) == pytest.approx(together, rel=1e-6)


def test_a_micro_batch_without_answers_has_a_loss_of_nothing(task: Any) -> None:
    tokens = torch.tensor([5, 6, 7])
    batch = task.collate([(tokens, torch.full_like(tokens, -100))])
    loss = task.loss(task.model(), batch).value
    loss.backward()
    assert task.items(batch) == 0
    assert loss.item() == 0.0


def test_adapters_alone_are_trained(sft: ModuleType, files: Path) -> None:
    model = sft.build_model(str(files / "model"), "bfloat16", LORA)
    trained = {name: parameter.dtype for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * 2 * 2  # A and B, of two projections in two layers
    assert all("lora_" in name and kind == torch.float32 for name, kind in trained.items())


def test_activations_are_computed_again_in_the_backward(sft: ModuleType, files: Path, task: Any) -> None:
    batch = task.collate([task.train_data()[0]])
    gradients = []
    for again in (False, True):
        model = sft.build_model(str(files / "model"), checkpoint_activations=again)
        assert model.training
        assert any(getattr(layer, "gradient_checkpointing", False) for layer in model.modules()) == again
        task.loss(model, batch).value.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_rows_of_parquet(sft: ModuleType, tokenizer: Any, tmp_path: Path) -> None:
    """Of either kind: a table has nothing in the columns that a row does not have."""
    import pyarrow
    from pyarrow import parquet

    rows: list[dict[str, Any]] = [{"messages": TALK}, {"prompt": "", "completion": " runs"}]
    columns = {name: [row.get(name) for row in rows] for name in ("messages", "prompt", "completion")}
    parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    samples = sft.Samples(sft.read_rows(str(tmp_path / "rows.parquet"), "train"), tokenizer, 1000)
    expected = sft.Samples(rows, tokenizer, 1000)
    assert len(samples) == 2
    for index in range(2):
        assert all(torch.equal(one, other) for one, other in zip(samples[index], expected[index], strict=True))


def test_missing_data_and_missing_packages_are_told(
    sft: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: Path
) -> None:
    with pytest.raises(RequestError, match=r"task.args.eval: there is no file .*none.jsonl. A line of it is \{"):
        sft.read_rows(str(tmp_path / "none.jsonl"), "eval")
    for name in ("datasets", "peft", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RequestError, match=r"task.args.train: some/set:train cannot be read: .* pip install datasets"):
        sft.read_rows("some/set:train", "train")
    with pytest.raises(RequestError, match=r"task.args.lora: adapters need peft: .* pip install peft"):
        sft.adapted(None, LORA)
    with pytest.raises(RequestError, match=r"task: fine-tuning needs transformers: .* pip install transformers"):
        sft.load_tokenizer(str(files / "model"))


def test_the_recipes_know_their_parameters(sft: ModuleType) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    heads = {"num_attention_heads": 14, "num_key_value_heads": 2, "num_hidden_layers": 24}
    config = Qwen2Config(
        hidden_size=896, intermediate_size=4864, vocab_size=151936, tie_word_embeddings=True, **heads
    )  # Qwen2.5-0.5B's
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
        assert f"parameters: {sum(one.numel() for one in model.parameters())}}}" in (RECIPE / "recipe.yaml").read_text()
        adapted: Any = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear"))
    trained = sum(one.numel() for one in adapted.parameters() if one.requires_grad)
    assert f"parameters: {trained}}}" in (RECIPE / "lora.yaml").read_text()


def run(files: Path, runs: Path, recipe: str, *overrides: str, **args: Any) -> list[dict[str, Any]]:
    given = {"model": str(files / "model"), "train": str(files / "train.jsonl"), "eval": str(files / "eval.jsonl")}
    done = launcher(
        "run", f"recipes/sft/{recipe}.yaml", f"task.args={json.dumps({**given, 'dtype': 'float32', **args})}",
        "model.parameters=null", "batch.global=10", "batch.micro=2", "data.workers=0", "launch.nproc_per_node=2",
        "launch.device=cpu", "optimizer.lr=0.03", *overrides, "--runs", str(runs), "--run-id", "run",
        timeout=500, env={"HF_HOME": str(runs / "home"), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (runs / "run" / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.long
@pytest.mark.timeout(900)  # four processes, each of which imports transformers
@pytest.mark.parametrize("recipe", ["recipe", "lora", "zero2", "zero3", "fsdp"])
def test_fine_tuning_trains(sft: ModuleType, files: Path, tmp_path: Path, recipe: str) -> None:
    blocks = ("parallel.fsdp.wrap=[LlamaDecoderLayer]",) if recipe == "fsdp" else ()
    args: dict[str, Any] = {}
    if recipe == "lora":  # with data of another kind, too: a data set, such as a folder is one
        (tmp_path / "set").mkdir()
        shutil.copy(files / "train.jsonl", tmp_path / "set")
        args = {"lora": {"r": 8, "target_modules": "all-linear"}, "train": f"{tmp_path / 'set'}:train"}
    rows = run(files, tmp_path, recipe, *blocks, **args)
    assert len(rows) == 15  # 4 windows of 10 and a tail of 8, three times
    assert rows[-1]["eval/loss"] < rows[0]["train/loss"] - 0.1
    labels = sum(int((labels[1:] != sft.IGNORED).sum()) for _, labels in task_of(sft, files).train_data())
    assert sum(row["batch/global_items"] for row in rows) == 3 * labels
    if recipe in ("recipe", "lora"):
        save(tmp_path / "run", tmp_path / "saved", adapters=recipe == "lora")


def task_of(sft: ModuleType, files: Path) -> Any:
    return sft.Sft(str(files / "model"), str(files / "train.jsonl"))


def save(run: Path, folder: Path, adapters: bool) -> None:
    """Save the model of a run, and load it again as its user would."""
    from peft import AutoPeftModelForCausalLM
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert launcher("export", str(run)).returncode == 0
    command = [sys.executable, str(RECIPE / "save.py"), str(run), str(folder)]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / "adapter_model.safetensors").exists() == adapters
    assert (folder / "model.safetensors").exists() != adapters
    loaded = (AutoPeftModelForCausalLM if adapters else AutoModelForCausalLM).from_pretrained(folder)
    trained = load_file(run / "model.safetensors")
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, trained[name]), name
    assert AutoTokenizer.from_pretrained(folder).chat_template == CHATML


@pytest.mark.parametrize("recipe", ["recipe", "lora", "zero2", "zero3", "fsdp"])
def test_every_variant_plans(recipe: str) -> None:
    from launcher.plan.planner import make_plan
    from launcher.plan.topology import Topology
    from launcher.recipe.load import load_recipe

    loaded = load_recipe(RECIPE / f"{recipe}.yaml").recipe
    plan = make_plan(loaded, Topology(nodes=1, nproc_per_node=8, device="cuda"))
    assert plan.batch.micro_steps == (4,) * 8
    engine = {"zero2": "deepspeed", "zero3": "deepspeed", "fsdp": "fsdp"}.get(recipe, "ddp")
    assert loaded.parallel.engine == engine
    assert loaded.parallel.deepspeed.stage == {"zero2": 2, "zero3": 3}.get(recipe, 1)
