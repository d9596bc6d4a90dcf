"""Where random numbers begin: Python's, numpy's, torch's."""

from __future__ import annotations

import hashlib
import random

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
    key = hashlib.blake2b(f"{seed}/{update}/{index}".encode(), digest_size=8).digest()
    _seed(int.from_bytes(key, "little") % 2**63)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
