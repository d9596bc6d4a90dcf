"""Where random numbers begin: Python's, numpy's, torch's."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_everything(seed: int, rank: int | None) -> None:
    """Seed Python, numpy and torch: alike on all ranks (None) for the model, apart for dropout in training."""
    _seed(seed if rank is None else (seed * 1_000_003 + rank + 1) % 2**63)


def seed_micro_batch(seed: int, update: int, index: int) -> None:
    """Seed them for one micro-batch, alike on whichever rank takes it.

    Args:
        seed: the recipe's seed.
        update: the update, from 0.
        index: which micro-batch of its window it is, from 0.
    """
    key = _key(seed, update, index)
    _seed_cpu(key)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.cuda.manual_seed_all(key)


def seed_for_data(seed: int, epoch: int, index: int, what: str = "sample") -> None:
    """Seed what data draw from: Python, numpy and torch on the CPU.

    It takes 13 µs, half of them for Python's own generator. GPUs, where data are not loaded, go on as they were.

    Args:
        seed: the recipe's seed.
        epoch: the epoch, from 0.
        index: the sample, or the first of a micro-batch.
        what: what is seeded for it.
    """
    _seed_cpu(_key(seed, epoch, index, what))


def next_random_numbers() -> tuple[object, ...]:
    """What each of them gives next: the same as before if, since it was seeded, nothing was drawn."""
    return random.random(), float(np.random.random()), float(torch.rand((), dtype=torch.float64))


@contextmanager
def kept_randomness() -> Iterator[None]:
    """Whatever is seeded and drawn on the CPU meanwhile, random numbers go on afterwards as if nothing had been."""
    before = random.getstate(), np.random.get_state(legacy=True), torch.get_rng_state()
    try:
        yield
    finally:
        python, numpy, of_torch = before
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(of_torch)


def _key(*parts: int | str) -> int:
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % 2**63


def _seed(seed: int) -> None:
    _seed_cpu(seed)
    torch.manual_seed(seed)  # GPUs too, also before they are used: it takes the time of a small update


def _seed_cpu(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
