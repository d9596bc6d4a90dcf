"""What is noted of the data, and what passes for the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from launcher.train.fingerprint import fingerprint, first_difference
from launcher.train.samples import KeyedBatches
from launcher.train.snapshot import Numbers
from launcher.train.task import Task


class Made:
    """Data of 40 samples, each made by a function."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


def noted(make: Callable[[int], Any], workers: int = 0) -> Numbers:
    found: Numbers = json.loads(json.dumps(fingerprint(KeyedBatches(Task(), Made(make), seed=1), workers)))
    return found


def values(index: int) -> torch.Tensor:
    return torch.randn(30, generator=torch.Generator().manual_seed(index))


KINDS: dict[str, tuple[Callable[[int], Any], Callable[[int], Any]]] = {
    "floats": (values, lambda index: values(index + 100)),
    "tokens": (lambda index: {"text": torch.arange(index, index + 9)}, lambda index: {"text": torch.arange(9) + 50}),
    "pixels": (
        lambda index: (np.full((4, 4), index, np.uint8), index % 10),
        lambda index: (np.full((4, 4), 255 - index, np.uint8), index % 10),
    ),
    "labels": (lambda index: (values(index), index % 10), lambda index: (values(index), (index + 1) % 10)),
    "small labels": (lambda index: torch.tensor(index % 5).byte(), lambda index: torch.tensor((index + 1) % 5).byte()),
    "text": (lambda index: f"line {index}", lambda index: f"row {index}"),
    "bytes": (lambda index: b"%d" % index, lambda index: b"%d" % (index + 1)),
    "shapes": (lambda index: torch.zeros(index), lambda index: torch.zeros(index + 1)),
    "parts": (lambda index: [index], lambda index: [index, index]),
    "augmented": (lambda index: values(index) + torch.rand(30), lambda index: values(index + 1) + torch.rand(30)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_changed_data_are_seen_and_the_same_are_not(kind: str) -> None:
    make, other = KINDS[kind]
    was = noted(make)
    assert first_difference(was, noted(make)) is None
    assert first_difference(was, noted(other)) == 0
    assert len(was["samples"]) == 16


def test_one_process_notes_what_another_one_does() -> None:
    make, _ = KINDS["augmented"]
    assert noted(make, workers=1) == noted(make)


def test_what_differs_from_load_to_load_is_left_out() -> None:
    calls = iter(range(1000))
    assert noted(lambda index: next(calls) if index else 0)["samples"].keys() == {"0"}


def test_a_decoder_that_differs_a_little_makes_no_other_data() -> None:
    pixels = torch.randint(0, 250, (3, 8, 8), dtype=torch.uint8)
    assert first_difference(noted(lambda _: pixels), noted(lambda _: pixels + 2)) is None
    assert first_difference(noted(values), noted(lambda index: values(index) * 1.001)) is None


def test_what_cannot_be_noted_is_left_out() -> None:
    def broken(index: int) -> Any:
        if index:
            raise ValueError("a broken file")
        return object()

    was = noted(broken)
    assert list(was["samples"]) == ["0"]
    assert first_difference(was, noted(broken)) is None


def test_under_other_versions_nothing_is_compared() -> None:
    make, other = KINDS["floats"]
    was, now = noted(make), noted(other)
    assert first_difference({**was, "versions": ["3", "1", "2"]}, now) is None


def test_the_training_draws_on_as_if_nothing_had_been_noted() -> None:
    before = torch.get_rng_state()
    noted(KINDS["augmented"][0])
    assert torch.equal(torch.get_rng_state(), before)
