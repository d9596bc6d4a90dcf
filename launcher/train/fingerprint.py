"""A few samples of the data in a few numbers, by which a run that goes on knows the data that it was begun with."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Sequence
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from launcher.train.randomness import kept_randomness
from launcher.train.samples import KeyedBatches, Wanted
from launcher.train.snapshot import Numbers

_SAMPLES = 16
_SECONDS = 2.0  # after which no more samples are loaded, where that takes long
_VALUES = 8  # of an array that are looked at one by one
_NEAR = 0.02  # of the size of values: decoders of images and sound differ a little between machines
_NEAR_BYTES = 4.0  # of 255
_PICTURE = 64  # bytes from which on they may be a decoded image; fewer are classes and the like, and must be the same


def fingerprint(batches: KeyedBatches, workers: int) -> Numbers:
    """What is noted of the data: up to 16 samples spread over it, as JSON holds them.

    Each is loaded twice: one that comes out otherwise the second time is left out, as is what is neither number nor
    text, and one that cannot be loaded, which may never be needed.

    Args:
        batches: the data, with the random numbers of their samples.
        workers: loading processes of the run. With some, none of it is loaded here: files that are opened in this
            process would be shared by all of them.
    """
    count = min(_SAMPLES, len(batches))
    places = [index * len(batches) // count for index in range(count)]
    loader: DataLoader[Any] = DataLoader(
        _Noted(batches),  # type: ignore[arg-type]  # any object with a length and an index serves
        batch_size=None,
        sampler=places,
        collate_fn=_as_it_is,
        num_workers=min(workers, 1),
        generator=torch.Generator(),
    )
    since = monotonic()
    samples: dict[str, Any] = {}
    with kept_randomness():
        for place, noted in zip(places, loader, strict=True):
            if noted is not None:
                samples[str(place)] = noted
            if monotonic() - since > _SECONDS:
                break
    return {"versions": [platform.python_version(), np.__version__, torch.__version__], "samples": samples}


def first_difference(was: Numbers, now: Numbers) -> int | None:
    """The first sample that is another one; None if there is none.

    Under other versions of what draws its random numbers, an augmented sample is another one though the data are the
    same: nothing is compared then.
    """
    if was["versions"] != now["versions"]:
        return None
    both = [place for place in was["samples"] if place in now["samples"]]
    return next((int(place) for place in both if not _alike(was["samples"][place], now["samples"][place])), None)


class _Noted:
    """Samples as what is noted of them; None where nothing is."""

    def __init__(self, batches: KeyedBatches) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> list[Any] | None:
        try:
            one, again = ([_noted(leaf) for leaf in tree_leaves(self._sample(index))] for _ in range(2))
        except Exception:
            return None
        return one if _alike(one, again) else None

    def _sample(self, index: int) -> Any:
        return self._batches.samples(Wanted(0, [index]))[0]


def _as_it_is(noted: Any) -> Any:
    return noted


def _noted(leaf: Any) -> Any:
    """What is noted of a part of a sample; None where it is no number and no text."""
    if isinstance(leaf, str | bytes):
        return _digest(leaf if isinstance(leaf, bytes) else leaf.encode("utf-8", "surrogatepass"))
    if isinstance(leaf, Tensor):
        leaf = leaf.detach().cpu()
        leaf = leaf.float().numpy() if leaf.is_floating_point() else leaf.numpy()
    if isinstance(leaf, bool | int | float) or hasattr(leaf, "__array__"):
        return _of_array(np.asarray(leaf))
    return None


def _of_array(values: np.ndarray[Any, Any]) -> Any:
    if values.dtype.kind not in "biuf":
        return None
    noted = {"kind": values.dtype.str, "shape": list(values.shape)}
    decoded = values.dtype.itemsize == 1 and values.size >= _PICTURE
    if values.dtype.kind != "f" and not decoded:
        return {**noted, "digest": _digest(np.ascontiguousarray(values).tobytes())}
    flat = values.reshape(-1).astype(np.float64)
    if not flat.size:
        return noted
    size = float(np.sqrt(np.mean(np.square(flat))))
    some = flat[[index * flat.size // _VALUES for index in range(min(_VALUES, flat.size))]]
    near = _NEAR * size if values.dtype.kind == "f" else _NEAR_BYTES
    return {**noted, "near": near, "values": [float(flat.mean()), size, *map(float, some)]}


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _alike(one: Any, other: Any) -> bool:
    """Whether two notes can be of the same thing."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, dict) and isinstance(other, dict) and "values" in one and "values" in other:
        described = all(one[key] == other[key] for key in ("kind", "shape"))
        return described and _near(one["values"], other["values"], max(one["near"], other["near"]))
    return bool(one == other)


def _near(values: Sequence[float], others: Sequence[float], most: float) -> bool:
    """Whether numbers are near; what is not finite must be the same."""
    return all(
        abs(one - other) <= most if math.isfinite(one) and math.isfinite(other) else str(one) == str(other)
        for one, other in zip(values, others, strict=True)
    )
