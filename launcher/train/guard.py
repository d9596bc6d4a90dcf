"""Watching that the ranks hold the same parameters: what drifts apart does so without an error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from launcher.train.engines.base import Engine
from launcher.train.engines.parts import own_part
from launcher.train.engines.small_reductions import PendingValues

_ROW = 1024
_LEAST = -(2**63)
# Two odd numbers of SplitMix64 (Steele, Lea and Flood 2014) as int64, so that rows cannot pass for columns.
_ROWS, _COLUMNS = -7046029254386353131, -4658895280553007687


class DivergedError(RuntimeError):
    """The ranks hold different parameters."""


@dataclass(frozen=True)
class _UnderWay:
    update: int
    extremes: PendingValues


class ParameterGuard:
    """Compares a checksum of the parameters over the ranks, by one all-reduce of two numbers for each part.

    The comparison is begun after an update and read after the next one, so that nothing waits for it. Where the ranks
    hold the model in parts, those with the same part are compared; with one of each there is nothing to compare.

    Args:
        engine: its model is watched.
        every: updates between two comparisons; 0 compares never.
    """

    def __init__(self, engine: Engine, every: int) -> None:
        self._engine = engine
        self._every = every if engine.world_size > engine.shards else 0
        self._compared = -1
        self._under_way: _UnderWay | None = None

    def after(self, update: int) -> None:
        """To be called by every rank after each update.

        Args:
            update: the update, from 1.

        Raises:
            DivergedError: the ranks differ; it names the first parameter that does, and the ranks.
        """
        self._read()
        if self._every and update % self._every == 0:
            self._compare(update)

    def before_keeping(self, update: int) -> None:
        """To be called by every rank before it keeps what it has after an update (from 1): that much is compared now.

        Raises:
            DivergedError: as in `after`.
        """
        self._read()
        if self._every and self._compared < update:
            self._compare(update)
            self._read()

    def _compare(self, update: int) -> None:
        total = combined(checksums(self._engine.model))
        both = torch.full((self._engine.shards, 2), _LEAST, device=total.device)
        both[self._engine.shard] = torch.stack((total, ~total))
        extremes = self._engine.reduce_over_ranks(both.flatten(), "max")
        self._under_way, self._compared = _UnderWay(update, extremes), update

    def _read(self) -> None:
        if self._under_way is None:
            return
        read, self._under_way = self._under_way, None
        values = [int(value) for value in read.extremes.read()]
        if any(largest != ~of_smallest for largest, of_smallest in zip(values[::2], values[1::2], strict=True)):
            raise DivergedError(f"after update {read.update} {first_difference(self._engine)}")


def first_difference(engine: Engine) -> str | None:
    """The first parameter that is not the same on all ranks, and where it differs, in words; None if all are."""
    own = [int(checksum) for checksum in checksums(engine.model)]
    names = [name for name, _ in engine.model.named_parameters()]
    gathered = engine.gather((engine.shard, own))
    for index, name in enumerate(names):
        for shard in range(engine.shards):
            of_ranks = {rank: found[index] for rank, (of, found) in enumerate(gathered) if of == shard}
            if len(set(of_ranks.values())) > 1:
                return f"the parameter {name} is not the same on all ranks: {_who_differs(of_ranks)}"
    return None


def _who_differs(of_ranks: Mapping[int, int]) -> str:
    (common, holders), *_ = Counter(of_ranks.values()).most_common()
    if 2 * holders <= len(of_ranks):
        two = " and ".join(map(str, of_ranks))
        return "most of them hold one of their own" if len(of_ranks) > 2 else f"ranks {two} hold two"
    odd = [str(rank) for rank, checksum in of_ranks.items() if checksum != common]
    return f"rank {odd[0]} differs" if len(odd) == 1 else f"ranks {', '.join(odd)} differ"


def checksums(model: nn.Module) -> list[Tensor]:
    """A checksum of the bits of each parameter, int64 scalars on its device."""
    return [checksum(own_part(parameter)) for parameter in model.parameters()]


def checksum(values: Tensor) -> Tensor:
    """A sum of all bits of a tensor with weights that depend on their place, modulo 2**64: an int64 scalar.

    A change of any one word of eight bytes changes it, and so does an exchange of two but by chance. Each word counts
    with the weight of its row, odd, and of its column, even: their sum is odd, and no multiple of it but zero vanishes.
    """
    flat = torch.view_as_real(values).flatten() if values.is_complex() else values.contiguous().flatten()
    if flat.storage_offset() * flat.element_size() % 8:
        flat = flat.clone()  # words begin at multiples of eight bytes
    octets = flat.view(torch.uint8)
    whole = octets.numel() // 8 * 8
    words = octets[:whole].view(torch.int64)
    in_rows = words.numel() // _ROW * _ROW
    rows = words[:in_rows].view(-1, _ROW)
    by_row = torch.cat((rows.sum(1), words[in_rows:], octets[whole:].long()))
    by_column = rows.sum(0)
    return (by_row * _weights(by_row)).sum() * 2 + by_row.sum() + (by_column * _weights(by_column, _COLUMNS)).sum() * 2


def combined(parts: list[Tensor]) -> Tensor:
    """One checksum of several, int64."""
    together = torch.stack(parts)
    return (together * (2 * _weights(together) + 1)).sum()


def _weights(values: Tensor, factor: int = _ROWS) -> Tensor:
    """Numbers that differ from place to place and look like none of the data's patterns, int64."""
    return torch.arange(1, values.numel() + 1, dtype=torch.int64, device=values.device) * factor
