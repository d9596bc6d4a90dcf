"""How large a batch one rank alone can take at once."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

from launcher.train.measurement import peak_memory

_PART = 0.5  # of the memory that is left may be used: the estimate is rough, and the machine has other work


class Fit:
    """How many samples fit into one forward and backward, as far as is known.

    A GPU says when its memory is full. Linux ends a process instead: on a CPU the first guess follows from what a
    micro-batch took.

    Args:
        samples: samples of the window.
        device: the device.
    """

    def __init__(self, samples: int, device: torch.device) -> None:
        self._all = samples
        self._most = 2 * samples  # in either width, until it is known better
        self._device = device
        _give_free_memory_back()
        self._resident = _resident_bytes()

    @property
    def samples(self) -> int:
        """So many; all of them at most."""
        return max(1, min(self._all, self._most))

    def learn(self, micro_batch: int) -> None:
        """Guess, once, when the rank has taken micro-batches of so many samples since this object was made."""
        resident, self._resident = self._resident, None
        available = _available_bytes()
        if self._device.type != "cpu" or available is None or resident is None:
            return
        growth = max(1, peak_memory(self._device) - resident)
        self._most = int(_PART * available / growth * micro_batch)

    def double_width(self) -> None:
        """Values take twice the memory from now on."""
        self._most //= 2

    def halve(self) -> None:
        """It was too much."""
        self._most = self.samples // 2


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception says that memory is full."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _available_bytes() -> int | None:
    """Memory that this process may still take: what the machine has, or its container if that is less."""
    known = [*_of_machine(), *_of_container()]
    return min(known) if known else None


def _of_machine() -> Iterator[int]:
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024


def _of_container() -> Iterator[int]:
    with suppress(OSError, ValueError):  # a limit of `max` is none
        folder = Path("/sys/fs/cgroup")
        yield int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text())


def _give_free_memory_back() -> None:
    """What is free but kept by glibc (ranks on CPUs keep it) would hide what the next micro-batch takes."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _resident_bytes() -> int | None:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return None
