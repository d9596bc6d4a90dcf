"""A byte-level GPT on text that every Python has: the sources of its own standard library."""

from __future__ import annotations

import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from launcher import Task

START = 256  # the token before a document's first byte; the others are the bytes themselves
VOCABULARY = 257
IGNORED = -100  # the target of padding, as cross_entropy knows it
HEAD_WIDTH = 32


class Piece(NamedTuple):
    """A sample: some lines of a document, and the token before them. Each byte of a document is a target once."""

    before: int
    text: bytes


class ByteLM(Task):
    """Predict the next byte.

    Args:
        width: numbers that describe a position, a multiple of 32.
        layers: blocks of attention and feed-forward.
        context: bytes of a sample at most.
        eval_samples: validation samples to measure on, spread evenly over the validation documents.
    """

    def __init__(self, width: int = 256, layers: int = 3, context: int = 128, eval_samples: int = 512) -> None:
        if width % HEAD_WIDTH:
            raise ValueError(f"width {width} is not a multiple of {HEAD_WIDTH}, the width of an attention head")
        self.width, self.layers, self.context = width, layers, context
        train, validation = split_documents(read_documents())
        self.train = pieces_of(train, context)
        held_out = pieces_of(validation, context)
        count = min(eval_samples, len(held_out))
        self.validation = [held_out[place * len(held_out) // count] for place in range(count)]

    def model(self) -> GPT:
        return GPT(self.width, self.layers, self.context)

    def train_data(self) -> list[Piece]:
        return self.train

    def eval_data(self) -> list[Piece]:
        return self.validation

    def collate(self, samples: list[Piece]) -> tuple[Tensor, Tensor]:
        """Inputs and targets, [batch, length of the longest sample] both."""
        tokens = [torch.tensor([piece.before, *piece.text]) for piece in samples]
        inputs = pad_sequence([row[:-1] for row in tokens], batch_first=True)
        targets = pad_sequence([row[1:] for row in tokens], batch_first=True, padding_value=IGNORED)
        return inputs, targets

    def items(self, batch: Any) -> int:
        _, targets = batch
        return int((targets != IGNORED).sum())  # what the mean below is over: without padding

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = batch
        scores = model(inputs)
        return functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)

    def evaluate(self, model: nn.Module, batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
        inputs, targets = batch
        scores = model(inputs)
        real = targets != IGNORED
        losses = functional.cross_entropy(scores.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
        right = scores.argmax(dim=2) == targets
        return {"loss": (losses, real), "accuracy": (right, real)}  # padding weighs nothing

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The recipe's weight decay is for matrices: decaying a bias or a norm's scale only does harm."""
        matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
        vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
        return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]


class GPT(nn.Module):
    """A transformer whose every position sees only what comes before it: padding at the end needs no mask."""

    def __init__(self, width: int, layers: int, context: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.apply(small_normal)
        for name, parameter in self.named_parameters():
            if name.endswith("out.weight"):  # what is added to the residual stream, 2 × layers times
                nn.init.normal_(parameter, std=0.02 / (2 * layers) ** 0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores of the next token, [batch, length, VOCABULARY], for tokens [batch, length]."""
        positions = torch.arange(inputs.shape[1], device=inputs.device)
        hidden = self.blocks(self.tokens(inputs) + self.positions(positions))
        return functional.linear(self.norm(hidden), self.tokens.weight)  # the embedding again: tied weights


class Block(nn.Module):
    """Attention, then a feed-forward network, each behind a norm of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), Attention(width))
        self.feed_forward = nn.Sequential(nn.LayerNorm(width), FeedForward(width))

    def forward(self, hidden: Tensor) -> Tensor:
        attended = hidden + self.attention(hidden)
        answer: Tensor = attended + self.feed_forward(attended)
        return answer


class Attention(nn.Module):
    """Causal attention of many heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        heads = self.queries_keys_values(hidden).unflatten(2, (3, -1, HEAD_WIDTH))  # [batch, length, 3, heads, 32]
        queries, keys, values = heads.permute(2, 0, 3, 1, 4)  # [batch, heads, length, 32] each
        seen = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        mixed: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return mixed


class FeedForward(nn.Module):
    """A layer four times as wide, each position by itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        narrow: Tensor = self.out(functional.gelu(self.wide(hidden)))
        return narrow


def small_normal(module: nn.Module) -> None:
    """Start as GPT-2 does."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def read_documents(folder: Path | None = None) -> dict[str, bytes]:
    """The modules at the top of the standard library by file name: about 170 documents, 5 MB."""
    folder = folder or Path(sysconfig.get_path("stdlib"))
    documents = {}
    for path in sorted(folder.glob("*.py")):
        try:
            documents[path.name] = path.read_bytes()
        except OSError:
            continue  # a broken link, or not ours to read
    if not documents:
        raise FileNotFoundError(f"this Python comes without the sources of its standard library: none in {folder}")
    return documents


def split_documents(documents: dict[str, bytes]) -> tuple[list[bytes], list[bytes]]:
    """Train and validation: whole documents, one in ten to validation by its name, in every run on every machine."""
    held_out = {name for name in documents if zlib.crc32(name.encode()) % 10 == 0}
    train = [text for name, text in documents.items() if name not in held_out]
    return train, [text for name, text in documents.items() if name in held_out]


def pieces_of(documents: list[bytes], context: int) -> list[Piece]:
    return [piece for text in documents for piece in cut(text, context)]


def cut(text: bytes, context: int) -> Iterator[Piece]:
    """Pieces of at most `context` bytes that end at a blank line if they can, or at the end of a line."""
    start = 0
    while start < len(text):
        end = end_of_piece(text, start, start + context)
        yield Piece(text[start - 1] if start else START, text[start:end])
        start = end


def end_of_piece(text: bytes, start: int, limit: int) -> int:
    if limit >= len(text):
        return len(text)
    for mark in (b"\n\n", b"\n"):
        found = text.rfind(mark, start, limit)
        if found >= 0:
            return found + len(mark)
    return limit  # a line longer than a piece
