from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from launcher.errors import RequestError
from launcher.train.compiling import compile_model
from tests.processes import ROOT, clean_environment, launcher
from tests.recipes import standins
from tests.recipes.modules import module_of

CONTEXT = 16
TINY = {"n_layer": 1, "n_head": 2, "n_embd": 32}
VOCABULARY = 70


def write_tokens(folder: Path, train: int, val: int = 100, dtype: str = "uint16") -> Path:
    folder.mkdir(exist_ok=True)
    tokens = {"train": train, "val": val}
    for part, count in tokens.items():
        (np.arange(count) % VOCABULARY).astype(dtype).tofile(folder / f"{part}.bin")
    meta = {"tokenizer": "numbers", "vocabulary": VOCABULARY, "end": 0, "dtype": dtype, "tokens": tokens}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


@pytest.fixture(scope="module")
def gpt2() -> ModuleType:
    return module_of(ROOT / "recipes" / "gpt2" / "task.py")


@pytest.fixture(scope="module")
def task(gpt2: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = write_tokens(tmp_path_factory.mktemp("tokens"), 10 * CONTEXT + 5)
    return gpt2.Gpt2(str(folder), CONTEXT, TINY, eval_blocks=2)


def test_each_token_is_a_target_once(task: Any) -> None:
    blocks = [task.train_data()[index] for index in range(len(task.train_data()))]
    assert len(blocks) == 10
    targets = torch.cat([block[1:] for block in blocks])
    assert torch.equal(targets, torch.arange(1, 10 * CONTEXT + 1) % VOCABULARY)


@pytest.mark.parametrize(("tokens", "blocks"), [(2 * CONTEXT, 1), (2 * CONTEXT + 1, 2)])
def test_a_block_needs_the_token_after_it(gpt2: ModuleType, tmp_path: Path, tokens: int, blocks: int) -> None:
    assert len(gpt2.Gpt2(str(write_tokens(tmp_path, tokens)), CONTEXT, TINY).train_data()) == blocks


def test_tokens_of_large_vocabularies(gpt2: ModuleType, tmp_path: Path) -> None:
    blocks = gpt2.Gpt2(str(write_tokens(tmp_path, 2 * CONTEXT + 1, dtype="uint32")), CONTEXT, TINY).train_data()
    assert blocks[1].tolist() == list(range(CONTEXT, 2 * CONTEXT + 1))


def test_evaluation_is_spread_over_the_validation_data(task: Any) -> None:
    assert [int(task.eval_data()[index][0]) for index in range(len(task.eval_data()))] == [0, 3 * CONTEXT]


def test_the_loss_is_the_models_own_and_the_mean_over_the_items(task: Any) -> None:
    torch.manual_seed(0)
    model = task.model()
    batch = task.collate([task.train_data()[index] for index in range(3)])
    with torch.no_grad():
        loss = float(task.loss(model, batch))
        measured = task.evaluate(model, batch)["loss"]
        of_one = model(batch[:1, :-1], labels=batch[:1, 1:], shift_labels=batch[:1, 1:]).loss
    assert task.items(batch) == 3 * CONTEXT == measured.numel()
    assert float(measured.mean()) == pytest.approx(loss, rel=1e-6)
    assert float(of_one) == pytest.approx(float(measured[0].mean()), rel=1e-6)


def test_without_transformers_a_sentence_says_so(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RequestError, match=r"GPT-2 needs transformers: .* with: pip install transformers\.$"):
        task.model()


def test_only_matrices_decay(task: Any) -> None:
    model = task.model()
    matrices, vectors = task.parameter_groups(model)
    assert vectors["weight_decay"] == 0
    assert {parameter.ndim for parameter in vectors["params"]} == {1}
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(model.parameters()))


def test_no_dropout(task: Any) -> None:
    assert {layer.p for layer in task.model().modules() if isinstance(layer, torch.nn.Dropout)} == {0.0}


def test_the_recipe_knows_its_parameters(gpt2: ModuleType, tmp_path: Path) -> None:
    folder = write_tokens(tmp_path, 1025, 1025)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "vocabulary": 50257}))
    with torch.device("meta"):
        model = gpt2.Gpt2(str(folder)).model()
    assert sum(parameter.numel() for parameter in model.parameters()) == 124_439_808
    assert "parameters: 124439808" in (ROOT / "recipes" / "gpt2" / "recipe.yaml").read_text()


@pytest.mark.long
def test_the_model_compiles_to_one_graph(task: Any) -> None:
    from torch._dynamo.utils import counters

    model = task.model()
    compile_model(model, backend="eager")
    batch = task.collate([task.train_data()[index] for index in range(4)])
    counters.clear()
    for _ in range(3):
        task.loss(model, batch).backward()
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("missing", "there are no tokens in"),
        ("cut", "and 500 tokens of uint16 were written"),
        ("short", "are less than"),
    ],
)
def test_data_that_cannot_be_used_says_how_it_is_made(gpt2: ModuleType, tmp_path: Path, broken: str, says: str) -> None:
    if broken != "missing":
        write_tokens(tmp_path, 500, val=CONTEXT if broken == "short" else 100)
    if broken == "cut":
        (tmp_path / "train.bin").write_bytes((tmp_path / "train.bin").read_bytes()[:-2])
    with pytest.raises(
        RequestError, match=rf"task.args.data: .*{says}.*Write them with: python recipes/gpt2/prepare.py"
    ):
        gpt2.Gpt2(str(tmp_path), CONTEXT, TINY)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(standins.tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def preparation() -> ModuleType:
    return module_of(ROOT / "recipes" / "gpt2" / "prepare.py")


def read(out: Path, part: str) -> list[int]:
    return list(np.fromfile(out / f"{part}.bin", json.loads((out / "meta.json").read_text())["dtype"]).tolist())


def test_what_was_packed_is_the_text(preparation: ModuleType, tokenizer: Any, tmp_path: Path) -> None:
    documents = [standins.text(3, seed) for seed in range(40)]
    out = tmp_path / "out"
    preparation.prepare(documents, tokenizer, "small", out, 0.3)
    meta = json.loads((out / "meta.json").read_text())
    assert meta["vocabulary"] == len(tokenizer)
    assert meta["dtype"] == "uint16"
    assert tokenizer.decode([meta["end"]]) == "<|endoftext|>"
    packed = {part: tokenizer.decode(read(out, part)).split("<|endoftext|>")[:-1] for part in ("train", "val")}
    assert meta["tokens"] == {part: len(read(out, part)) for part in packed}
    assert sorted(packed["train"] + packed["val"]) == sorted(documents)
    assert 0.1 < len(packed["val"]) / 40 < 0.6
    assert set(packed["train"]).isdisjoint(packed["val"])  # equal documents are on the same side
    with pytest.raises(ValueError, match="is there already"):
        preparation.prepare(documents, tokenizer, "small", out, 0.3)


class LargeVocabulary:
    """A tokenizer of more tokens than 16 bits can number."""

    eos_token_id = 70_000

    def get_vocab(self) -> dict[str, int]:
        return {"<end>": 70_000}

    def __call__(self, texts: list[str], **options: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [[65_536 + place for place, _ in enumerate(text)] for text in texts]}


def test_names_of_special_tokens_in_a_text_are_text(preparation: ModuleType, tokenizer: Any, tmp_path: Path) -> None:
    documents = [f"the <|endoftext|> of <|im_start|> {number}" for number in range(20)]
    preparation.prepare(documents, tokenizer, "small", tmp_path / "out", 0.3)
    tokens = read(tmp_path / "out", "train") + read(tmp_path / "out", "val")
    special = set(tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]))
    assert [token for token in tokens if token in special] == [tokenizer.eos_token_id] * len(documents)
    packed = tokenizer.decode(tokens)
    assert all(f"{document}<|endoftext|>" in packed for document in documents)


def test_an_end_that_is_a_piece_of_the_vocabulary_ends_no_text(preparation: ModuleType, tmp_path: Path) -> None:
    """Unigram models, as T5's, take the names of special tokens for pieces of text."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.Unigram([("<unk>", -10.0), ("</s>", 0.0), ("a", -1.0), ("b", -1.0)], 0, False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="<unk>")
    preparation.prepare([f"b</s>{number * 'a'}" for number in range(8)], tokenizer, "pieces", tmp_path / "out", 0.5)
    tokens = read(tmp_path / "out", "train") + read(tmp_path / "out", "val")
    assert tokens.count(tokenizer.eos_token_id) == 8
    assert (tokens.count(2), tokens.count(3)) == (28, 8)


def test_a_large_vocabulary_takes_32_bits(preparation: ModuleType, tmp_path: Path) -> None:
    preparation.prepare(["ab", "abc", "abcd"], LargeVocabulary(), "large", tmp_path / "out", 0.4)
    tokens = read(tmp_path / "out", "train") + read(tmp_path / "out", "val")
    assert len(tokens) == 12
    assert set(tokens) == {65_536, 65_537, 65_538, 65_539, 70_000}


def test_an_interrupted_preparation_leaves_nothing(preparation: ModuleType, tokenizer: Any, tmp_path: Path) -> None:
    def documents() -> Any:
        yield from ["one", "two"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        preparation.prepare(documents(), tokenizer, "small", tmp_path / "out", 0.5)
    assert not list(tmp_path.iterdir())


def test_nothing_to_validate_on_is_told(preparation: ModuleType, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no document fell to val: give more text, or a larger --validation"):
        preparation.prepare(["one", "two"], tokenizer, "small", tmp_path / "out", 0.0)
    assert not list(tmp_path.iterdir())


def test_text_files_and_parquet_files_of_a_folder(preparation: ModuleType, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "b.txt").mkdir()
    long = standins.text(3000)
    (tmp_path / "b.txt" / "long.TXT").write_text(long)
    (tmp_path / "notes.csv").write_text("not read")
    parquet.write_table(pyarrow.table({"text": ["one", "two"], "id": [0, 2]}), tmp_path / "a.parquet")
    documents = list(preparation.of_folder(tmp_path, "text"))
    assert documents[:2] == ["one", "two"]
    assert "".join(documents[2:]) == long
    assert len(documents) > 3
    assert all(piece.endswith("\n") and len(piece) <= 2 * preparation.PIECE for piece in documents[2:])
    with pytest.raises(ValueError, match="has no column words: --column is one of text, id"):
        list(preparation.of_folder(tmp_path, "words"))
    with pytest.raises(
        ValueError, match=r"/a\.parquet: the column id has rows that are no text, but int: give another "
    ):
        list(preparation.of_folder(tmp_path, "id"))
    with pytest.raises(ValueError, match="there is no file"):
        list(preparation.of_folder(tmp_path / "b.txt" / "none", "text"))


@pytest.mark.parametrize("given", ["2", "-1", "0", "1", "nan", "some"])
def test_validation_is_a_fraction(
    preparation: ModuleType, given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--folder", "texts", "--validation", given])
    with pytest.raises(SystemExit) as ended:
        preparation.command_line()
    assert ended.value.code == 2
    assert f"argument --validation: {given} is no fraction between 0 and 1" in capsys.readouterr().err


def prepare(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    tokens = standins.tokenizer(tmp_path / "tokenizer")
    command = [sys.executable, str(ROOT / "recipes" / "gpt2" / "prepare.py"), *arguments, "--tokenizer", str(tokens)]
    env = clean_environment(HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="1")
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.long
def test_a_data_set_of_the_hugging_face_kind(tmp_path: Path) -> None:
    """A folder is one too; the hub is not asked."""
    (tmp_path / "set").mkdir()
    rows = [{"text": standins.text(3, number), "id": number} for number in range(300)]
    (tmp_path / "set" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ("--dataset", str(tmp_path / "set"), "--validation", "0.2")
    done = prepare(tmp_path, *given, "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    both = read(tmp_path / "out", "train") + read(tmp_path / "out", "val")
    assert both.count(0) == 300  # ends of documents
    done = prepare(tmp_path, *given, "--column", "words", "--out", str(tmp_path / "other"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("has no column words: --column is one of text, id")
    assert "Traceback" not in done.stderr


@pytest.mark.long
@pytest.mark.timeout(900)
def test_from_a_folder_of_text_to_a_trained_model(tmp_path: Path) -> None:
    texts, out = tmp_path / "texts", tmp_path / "tokens"
    texts.mkdir()
    for number in range(20):
        (texts / f"{number}.txt").write_text(standins.text(60, number))
    done = prepare(tmp_path, "--folder", str(texts), "--out", str(out), "--validation", "0.2")
    assert done.returncode == 0, done.stderr
    assert "tokens to train on" in done.stdout
    args = f"task.args={json.dumps({'data': str(out), 'context': 32, 'config': TINY})}"
    small = ("batch.global=24", "batch.micro=4", "train.updates=20", "schedule.warmup=4", "optimizer.lr=0.01")
    done = launcher(
        "run", "recipes/gpt2/recipe.yaml", args, *small, "model.parameters=null", "train.compile=false",
        "data.workers=1", "launch.nproc_per_node=2", "launch.device=cpu", "--runs", str(tmp_path), "--run-id", "run",
        timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 20
    assert {row["batch/global_items"] for row in rows if row["batch/global_samples"] == 24} == {24 * 32}
    assert rows[-1]["train/loss"] < 0.8 * rows[0]["train/loss"]
    assert rows[-1]["eval/loss"] < rows[0]["train/loss"]
    assert all(row["throughput/tokens_per_sec"] > 0 for row in rows)


@pytest.mark.long
def test_without_tokens_a_run_says_how_they_are_made(tmp_path: Path) -> None:
    done = launcher(
        "run", "recipes/gpt2/recipe.yaml", f"task.args.data={tmp_path}", "launch.device=cpu", "--runs", str(tmp_path)
    )
    assert done.returncode == 2
    assert done.stderr.count("there are no tokens in") == 1
    assert "prepare.py" in done.stderr
