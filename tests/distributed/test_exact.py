"""Exact runs: the same bits on 1, 2, 3 and 4 ranks, which plain DDP does not have."""

from __future__ import annotations

import json
import math
from itertools import chain
from typing import Any

import pytest

from tests.distributed.exact import CASES, Case
from tests.processes import torchrun

WORLDS = (1, 2, 3, 4)
EXACT = [case for case in CASES if case.virtual_ranks]
Measured = dict[int, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """World size → what each rank found."""
    found = {}
    for world in WORLDS:
        out = tmp_path_factory.mktemp("exact") / f"{world}.json"
        torchrun("tests.distributed.exact", str(out), ranks=world)
        found[world] = json.loads(out.read_text())
    return found


def everything(measured: Measured, case: Case, what: str) -> list[Any]:
    """What all ranks of all worlds found."""
    return [rank["cases"][case.name][what] for rank in chain.from_iterable(measured[world] for world in WORLDS)]


@pytest.mark.parametrize("case", EXACT, ids=lambda case: case.name)
def test_parameters_and_optimizer_are_the_same_bits_on_any_ranks(measured: Measured, case: Case) -> None:
    assert len(set(everything(measured, case, "state"))) == 1


def test_plain_ddp_is_seen_to_differ(measured: Measured) -> None:
    (plain,) = (case for case in CASES if not case.virtual_ranks)
    of_worlds = [measured[world][0]["cases"][plain.name]["state"] for world in WORLDS]
    assert len(set(of_worlds)) > 1


def test_virtual_ranks_are_part_of_what_the_bits_follow_from(measured: Measured) -> None:
    four, five = (everything(measured, case, "state")[0] for case in EXACT if case.name.startswith("prime"))
    assert four != five


@pytest.mark.parametrize("case", EXACT, ids=lambda case: case.name)
def test_rows_say_the_same(measured: Measured, case: Case) -> None:
    first, *others = everything(measured, case, "rows")
    assert all(other == first for other in others)
    noise, *other_noise = everything(measured, case, "noise")
    for other in other_noise:
        assert [value is None for value in other] == [value is None for value in noise]
        assert all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(noise, other, strict=True) if a is not None)


@pytest.mark.parametrize(("world", "copies"), [(1, 0), (2, 1), (3, 1.5), (4, 1)])
def test_aligned_blocks_cost_what_a_ring_does(measured: Measured, world: int, copies: float) -> None:
    for rank in measured[world]:
        case = rank["cases"]["V=8"]
        assert set(case["bytes"]) == {int(case["gradient_bytes"] * copies)}


@pytest.mark.parametrize("world", WORLDS)
def test_buffers_that_forward_passes_change_are_refused(measured: Measured, world: int) -> None:
    for rank in measured[world]:
        assert "forward passes change 1.num_batches_tracked of the model" in rank["refusal"]
