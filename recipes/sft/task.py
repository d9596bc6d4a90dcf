"""Fine-tuning of a causal language model: on the answers of conversations, or on completions of prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from launcher import Loss, Task
from launcher.errors import Mistake, RequestError

HERE = Path(__file__).parent
IGNORED = -100  # the label of tokens that are not trained on, as cross_entropy knows it
MARKS_ANSWERS = re.compile(r"\{%-?\s*generation\s*-?%\}")  # in a chat template: around what the model is to say


class Sft(Task):
    """Predict the tokens of answers.

    Args:
        model: name on the hub, or a folder; a relative path starts here, as do those of data.
        train: what to train on: a .jsonl or .parquet file, or `name:split` of a data set of the hub. A sample has
            `messages`, each with a role and its content, or a `prompt` and its `completion`.
        eval: what to validate on; None: nothing.
        max_length: tokens of a sample at most; what is beyond them is cut off.
        dtype: number format of the parameters.
        lora: settings of peft's LoraConfig, to train adapters alone; None trains the model.
        checkpoint_activations: compute forward passes again in the backward, to save memory.
        chat_template: a file with a chat template, instead of the tokenizer's own.
    """

    def __init__(
        self,
        model: str,
        train: str,
        eval: str | None = None,  # the name that the recipe gives it
        max_length: int = 2048,
        dtype: str = "float32",
        lora: dict[str, Any] | None = None,
        checkpoint_activations: bool = False,
        chat_template: str | None = None,
    ) -> None:
        self.settings = (model, dtype, lora, checkpoint_activations)
        rows, held_out = read_rows(train, "train"), read_rows(eval, "eval") if eval else None
        tokenizer = load_tokenizer(model, chat_template)
        self.train = Samples(rows, tokenizer, max_length)
        self.validation = None if held_out is None else Samples(held_out, tokenizer, max_length)

    def model(self) -> nn.Module:
        model: nn.Module = build_model(*self.settings)
        return model

    def train_data(self) -> Samples:
        return self.train

    def eval_data(self) -> Samples | None:
        return self.validation

    def collate(self, samples: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Tokens, which of them are there, and labels, [batch, length of the longest sample] all."""
        return {
            "input_ids": pad_sequence([tokens for tokens, _ in samples], batch_first=True),
            "attention_mask": pad_sequence([torch.ones_like(tokens) for tokens, _ in samples], batch_first=True),
            "labels": pad_sequence([labels for _, labels in samples], batch_first=True, padding_value=IGNORED),
        }

    def items(self, batch: Any) -> int:
        return int((targets_of(batch) != IGNORED).sum())  # exactly the tokens that the loss is over

    def loss(self, model: nn.Module, batch: Any) -> Loss:
        # A sum: the mean over no token, where a long prompt left room for none, would not be a number.
        return Loss(token_losses(model, batch).sum(), reduction="sum")

    def evaluate(self, model: nn.Module, batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
        return {"loss": (token_losses(model, batch), targets_of(batch) != IGNORED)}


def targets_of(batch: Any) -> Tensor:
    """What each position but the last one is to predict, [batch, length - 1]: the label of the next token."""
    targets: Tensor = batch["labels"][:, 1:]
    return targets


def token_losses(model: nn.Module, batch: Any) -> Tensor:
    """The loss of each target, [batch, length - 1]; 0 where it is ignored."""
    scores = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    targets = targets_of(batch)
    losses = functional.cross_entropy(
        scores.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view_as(targets)


def located(name: str) -> str:
    """A folder, where there is one of the name, or else the name of a model on the hub."""
    return str(HERE / name) if (HERE / name).is_dir() else name


def transformers() -> Any:
    """The package; it is imported once all data was found, as that takes seconds."""
    try:
        import transformers
    except ImportError as missing:
        cure = "Install it with: pip install transformers"
        raise RequestError([Mistake("task", f"fine-tuning needs transformers: {missing}", cure)]) from missing
    return transformers


def load_tokenizer(name: str, chat_template: str | None = None) -> Any:
    tokenizer = transformers().AutoTokenizer.from_pretrained(located(name))
    if chat_template is not None:
        tokenizer.chat_template = (HERE / chat_template).read_text(encoding="utf-8")
    return tokenizer


def build_model(
    name: str, dtype: str = "float32", lora: dict[str, Any] | None = None, checkpoint_activations: bool = False
) -> Any:
    """The model, or the model with adapters, which alone are trained."""
    model = transformers().AutoModelForCausalLM.from_pretrained(located(name), dtype=getattr(torch, dtype))
    model.config.use_cache = False  # it is for generating text
    if checkpoint_activations:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if lora is not None:
        model = adapted(model, lora)
    return model.train()  # from_pretrained gives it as it is for inference


def adapted(model: Any, lora: dict[str, Any]) -> Any:
    """The model, frozen, with adapters."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as missing:
        cure = "Install it with: pip install peft"
        raise RequestError([Mistake("task.args.lora", f"adapters need peft: {missing}", cure)]) from missing
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora))


class Samples:
    """Samples as tokens and labels, made of rows as they are asked for.

    Args:
        rows: what was read.
        tokenizer: of the model.
        max_length: tokens of a sample at most.
    """

    def __init__(self, rows: Sequence[Any], tokenizer: Any, max_length: int) -> None:
        self.rows, self.tokenizer, self.max_length = rows, tokenizer, max_length

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Tokens and labels, [length] both; a label is the token itself, or IGNORED."""
        row = {key: value for key, value in self.rows[index].items() if value is not None}  # a table has all columns
        if "messages" in row:
            tokens, answers = conversation(self.tokenizer, row["messages"])
        elif "prompt" in row and "completion" in row:
            tokens, answers = completion(self.tokenizer, row["prompt"], row["completion"])
        else:
            raise ValueError(f"it has {', '.join(row)}, but neither messages nor a prompt and its completion")
        kept = torch.tensor(tokens[: self.max_length])
        return kept, kept.where(torch.tensor(answers[: self.max_length], dtype=torch.bool), IGNORED)


def completion(tokenizer: Any, prompt: str, answer: str) -> tuple[list[int], list[bool]]:
    """Tokens, and which are the completion's: cut apart as when the model is given the prompt, and end of text."""
    before = tokenizer(prompt)["input_ids"]
    after = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return before + after, [False] * len(before) + [True] * len(after)


def conversation(tokenizer: Any, messages: Sequence[Any]) -> tuple[list[int], list[bool]]:
    """Tokens of a conversation in the model's own format, and which are the assistant's."""
    if MARKS_ANSWERS.search(tokenizer.get_chat_template()):
        found = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        return found["input_ids"], [bool(mark) for mark in found["assistant_masks"]]

    def text_of(messages: Sequence[Any], answer_follows: bool = False) -> str:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer_follows)
        return text

    text = text_of(messages)
    spans = [
        answer_span(text, text_of(messages[:place], answer_follows=True), text_of(messages[: place + 1]))
        for place, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    starts = [start for start, _ in found["offset_mapping"]]
    return found["input_ids"], [any(first <= start < end for first, end in spans) for start in starts]


def answer_span(text: str, before: str, through: str) -> tuple[int, int]:
    """Where an answer is in the text of a conversation: from what comes before it to the end of its turn."""
    if not (through.startswith(before) and text.startswith(through)):
        raise ValueError(
            "the chat template writes a turn otherwise once others follow it, so the answers cannot be found; give "
            "task.args.chat_template, a template with {% generation %} around them"
        )
    return len(before), len(through)


def read_rows(source: str, key: str) -> Sequence[Any]:
    """The rows of a file, or of a data set of the hub.

    Args:
        source: a .jsonl or .parquet file, or `name:split`.
        key: the argument of the task that says so.

    Raises:
        RequestError: there is no such file, or a package is missing.
    """
    path = HERE / source
    if path.suffix in READERS and not path.exists():
        cure = 'A line of it is {"prompt": "...", "completion": "..."} or {"messages": [{"role": "user", ...}, ...]}'
        raise RequestError([Mistake(f"task.args.{key}", f"there is no file {path}", cure)])
    try:
        return READERS[path.suffix](path) if path.suffix in READERS else dataset_rows(source)
    except ImportError as missing:
        cure = "Install it with: pip install datasets pyarrow"
        raise RequestError([Mistake(f"task.args.{key}", f"{source} cannot be read: {missing}", cure)]) from missing


def json_rows(path: Path) -> Sequence[Any]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def parquet_rows(path: Path) -> Sequence[Any]:
    from pyarrow.parquet import read_table

    rows: list[Any] = read_table(path).to_pylist()
    return rows


def dataset_rows(source: str) -> Sequence[Any]:
    from datasets import load_dataset

    name, _, split = source.partition(":")
    rows: Sequence[Any] = load_dataset(name, split=split or "train")
    return rows


READERS: dict[str, Callable[[Path], Sequence[Any]]] = {".jsonl": json_rows, ".parquet": parquet_rows}
