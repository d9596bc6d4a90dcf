"""Ranks that differ: in the model that they built, in their data, or in what they make of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from launcher.train.guard import checksum
from launcher.train.proof.bench import Bench
from launcher.train.proof.finding import Finding, first_micro_batch
from launcher.train.proof.ranks import Ranks
from launcher.train.proof.repeats import fingerprint
from launcher.train.proof.switches import ALL_OFF
from launcher.words import number, plural


def parameters(model: nn.Module, ranks: Ranks) -> Finding | None:
    """Parameters and buffers that the ranks built differently.

    To be asked before an engine is built, which gives all ranks those of rank 0.
    """
    parts = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    of_ranks = ranks.gather({name: int(checksum(part.detach())) for name, part in parts.items()})
    names = dict.fromkeys(name for checksums in of_ranks for name in checksums)
    held = {name: [checksums.get(name) for checksums in of_ranks] for name in names}
    return _of_unlike({name: checksums for name, checksums in held.items() if len(set(checksums)) > 1})


def _of_unlike(held: Mapping[str, Sequence[object]]) -> Finding | None:
    if not held:
        return None
    first, checksums = next(iter(held.items()))
    return Finding(
        "rank-dependent parameters",
        "parameters differ between ranks before training",
        f"of {first}, {unlike_first(checksums)}. Training begins with those of rank 0 on all ranks",
        "Let Task.model() build the same on every rank: from the seed, and not from RANK, the time or files of its own",
        tuple(held),
    )


def work(bench: Bench) -> Finding | None:
    """Ranks that have other data, or make something else of the same samples."""
    batch = first_micro_batch(bench)
    batches = bench.ranks.gather(fingerprint(batch))
    if len(set(batches)) > 1:
        return Finding(
            "rank-dependent",
            "the ranks do not see the same data",
            f"every rank made the same micro-batch: {unlike_first(batches)}",
            "Let the task give every rank the same data; the plan deals it out",
        )
    alone = bench.alone([batch], ALL_OFF)
    of_ranks = bench.ranks.gather((_norm(alone.gradient.values()), *alone.losses))
    unlike = [rank for rank, measured in enumerate(of_ranks) if not _close(measured, of_ranks[0], bench.tolerance)]
    if not unlike:
        return None
    norms = " and ".join(f"{number(of_ranks[rank][0])} on rank {rank}" for rank in (0, unlike[0]))
    return Finding(
        "rank-dependent",
        "the ranks make something else of the same samples",
        f"every rank took the same micro-batch with the same parameters and seed: the norm of its gradient is {norms}",
        "Let the model and the loss not depend on RANK, or on anything else that differs from process to process",
    )


def unlike_first(of_ranks: Sequence[object]) -> str:
    """Which ranks have something else than rank 0, in words."""
    unlike = [str(rank) for rank, value in enumerate(of_ranks) if value != of_ranks[0]]
    if len(unlike) == 1:
        return f"rank {unlike[0]} has another than rank 0"
    which = f"ranks {', '.join(unlike)}" if len(unlike) <= 8 else plural(len(unlike), "rank")
    return f"{which} have others than rank 0"


def _norm(gradients: Iterable[Tensor]) -> float:
    return math.hypot(*(float(torch.linalg.vector_norm(gradient.double())) for gradient in gradients))


def _close(ours: Sequence[float], first: Sequence[float], tolerance: float) -> bool:
    return all(math.isclose(one, other, rel_tol=tolerance) for one, other in zip(ours, first, strict=True))
