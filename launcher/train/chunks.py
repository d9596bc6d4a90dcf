"""Tensors of which a rank has a part: where it lies in the whole, and the memory that it is in.

A part is made of chunks, boxes of the whole, as `torch.distributed.checkpoint` knows them. What is saved is read from
their memory, and what is loaded is written to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from launcher.train.snapshot import Numbers, Tensors


@dataclass(frozen=True)
class Chunk:
    """A box of a tensor.

    Attributes:
        offsets: of its first element, in each dimension of the tensor.
        values: its elements, in as many dimensions.
    """

    offsets: tuple[int, ...]
    values: Tensor


@dataclass(frozen=True)
class Part:
    """What a rank has of a tensor, or is to keep of it.

    Attributes:
        shape: of the whole tensor.
        chunks: none where it is other ranks that have it.
    """

    shape: torch.Size
    chunks: tuple[Chunk, ...] = ()

    @staticmethod
    def whole(values: Tensor) -> Part:
        """A part that is all of a tensor."""
        return Part(values.shape, (Chunk((0,) * values.ndim, values),))

    @staticmethod
    def rows(shape: torch.Size, first: int, values: Tensor) -> Part:
        """A part that is some rows of a tensor.

        Args:
            shape: of the whole tensor.
            first: the first of them.
            values: the rows; there may be none.
        """
        return Part(shape, (Chunk((first, *(0,) * (len(shape) - 1)), values),) if values.numel() else ())

    @staticmethod
    def stretch(shape: torch.Size, first: int, values: Tensor) -> Part:
        """A part that is some elements of a tensor that lie one behind the other, in whatever row they begin and end.

        Args:
            shape: of the whole tensor.
            first: the first of them, where the whole is taken as flat.
            values: the elements, in one dimension.
        """
        chunks, done = [], 0
        for offsets, sizes in _boxes(tuple(shape), first, first + values.numel()):
            size = prod(sizes)
            chunks.append(Chunk(offsets, values[done : done + size].view(sizes)))
            done += size
        return Part(shape, tuple(chunks))


@dataclass(frozen=True)
class Parts:
    """What a rank is to keep of named tensors, of which others keep the rest.

    Attributes:
        tensors: every name on every rank.
        numbers: what belongs to them and is no tensor; the same on every rank.
    """

    tensors: Mapping[str, Part]
    numbers: Numbers


class Kept(Protocol):
    """Named tensors of a checkpoint, read as they are wanted."""

    @property
    def numbers(self) -> Numbers:
        """What belongs to them and is no tensor."""
        ...

    @property
    def like(self) -> Mapping[str, Tensor]:
        """A tensor of each shape and dtype, without values."""
        ...

    def whole(self) -> Tensors:
        """All of them."""
        ...

    def one(self, name: str) -> Tensor:
        """One of them."""
        ...

    def fill(self, parts: Iterable[tuple[str, Part]]) -> None:
        """Write into the memory of parts what was kept of them, and read no more than that.

        Args:
            parts: each with the name that its tensor was kept under; several may have the same.
        """
        ...


def _boxes(shape: Sequence[int], first: int, end: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The boxes that the elements from `first` to `end` of a flat tensor make up, in their order: offsets and sizes.

    Whole rows are one box; a row that begins or ends within is made of boxes of its own rows.
    """
    if first >= end:
        return
    if len(shape) < 2:
        yield (first,) * len(shape), (end - first,) * len(shape)
        return
    size = prod(shape[1:])
    row, rows_end = -(-first // size), end // size
    if row > rows_end:  # all within one row
        yield from _within(shape, rows_end, first, end)
        return
    yield from _within(shape, row - 1, first, row * size)
    if row < rows_end:
        yield (row, *(0,) * (len(shape) - 1)), (rows_end - row, *shape[1:])
    yield from _within(shape, rows_end, rows_end * size, end)


def _within(shape: Sequence[int], row: int, first: int, end: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    begin = row * prod(shape[1:])
    for offsets, sizes in _boxes(shape[1:], first - begin, end - begin):
        yield (row, *offsets), (1, *sizes)
