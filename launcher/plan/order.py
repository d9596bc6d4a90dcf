"""The sample order of an epoch: a keyed permutation of [0, N), computed per position, with no table.

The order depends on the seed, the epoch and the length of the data alone, never on the number of ranks. Any position
is reached at once, for a data set of any size.

The permutation is a Feistel network (Luby and Rackoff 1988, "How to construct pseudorandom permutations from
pseudorandom functions") over the smallest power of two that holds N, walked until it falls inside [0, N) (Black and
Rogaway 2002, "Ciphers with arbitrary finite domains"); its round function is the finaliser of SplitMix64 (Steele,
Lea and Flood 2014, "Fast splittable pseudorandom number generators").
"""

from __future__ import annotations

import hashlib
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Positions: TypeAlias = npt.NDArray[np.int64]

ALGORITHM = "order-1"  # part of the key: another way of ordering must have another name
_ROUNDS = 8


def sample_order(positions: npt.ArrayLike, length: int, seed: int, epoch: int) -> Positions:
    """The samples at given positions of an epoch.

    Args:
        positions: int64 array of any shape, each in [0, length).
        length: number of samples in the data, N, from 1 to 2**62.
        seed: the recipe's seed.
        epoch: the epoch, from 0.

    Returns:
        int64 array of the same shape: sample indices in [0, length), distinct for distinct positions.
    """
    walked = np.array(positions, dtype=np.uint64)
    bits = max(2, (length - 1).bit_length())
    keys = _round_keys(seed, epoch, length)
    outside = np.ones(walked.shape, dtype=bool)
    while outside.any():  # each round trip leaves less than half of them outside, on average
        walked[outside] = _feistel(walked[outside], bits, keys)
        outside = walked >= np.uint64(length)
    return walked.astype(np.int64)


def _round_keys(seed: int, epoch: int, length: int) -> list[np.uint64]:
    return [
        np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))
        for text in (f"{ALGORITHM}/{seed}/{epoch}/{length}/{index}" for index in range(_ROUNDS))
    ]


def _feistel(values: npt.NDArray[np.uint64], bits: int, keys: list[np.uint64]) -> npt.NDArray[np.uint64]:
    """One pass of the network over [0, 2**bits); the halves may differ by a bit and trade places every round."""
    right_bits, left_bits = bits // 2, bits - bits // 2
    left, right = values >> np.uint64(right_bits), values & _mask(right_bits)
    for key in keys:
        left, right = right, left ^ (_mix(right, key) & _mask(left_bits))
        left_bits, right_bits = right_bits, left_bits
    return (left << np.uint64(right_bits)) | right


def _mask(bits: int) -> np.uint64:
    return np.uint64((1 << bits) - 1)


def _mix(values: npt.NDArray[np.uint64], key: np.uint64) -> npt.NDArray[np.uint64]:
    mixed = values + key  # arrays of uint64 wrap around silently, as the finaliser wants
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
