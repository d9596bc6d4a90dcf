"""Exact runs: the same bits on 1, 2, 3 and 4 ranks, which plain DDP does not have."""

from __future__ import annotations

import json
import math
from itertools import chain
from typing import Any

import pytest

from launcher.plan.exact import gradient_copies
from tests.distributed.exact import CASES, UPDATES, Case
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
    """What all ranks of all worlds found that the case goes on."""
    worlds = [world for world in WORLDS if world <= (case.virtual_ranks or world)]
    return [rank["cases"][case.name][what] for rank in chain.from_iterable(measured[world] for world in worlds)]


def last(events: list[str], event: str) -> int:
    """The place of the last of its kind."""
    return len(events) - 1 - events[::-1].index(event)


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


def test_with_a_virtual_rank_each_buckets_go_while_the_backward_goes_on(measured: Measured) -> None:
    for rank in measured[4]:
        for events in rank["cases"]["V=4"]["events"]:
            assert events.index("exchange") < last(events, "gradient")
        for events in (
            *rank["after"]["events"],
            *rank["cases"]["V=8"]["events"],
            *rank["cases"]["sequential"]["events"],
        ):
            assert last(events, "gradient") < events.index("exchange")


def test_all_ranks_call_in_one_order(measured: Measured) -> None:
    """Whatever gradients they have: of other micro-batches, of a layer that some do not use, or none."""
    for case in EXACT:
        of_ranks = [
            [[event for event in events if event != "gradient"] for events in rank["cases"][case.name]["events"]]
            for rank in measured[min(4, case.virtual_ranks or 4)]
        ]
        assert all(of_rank == of_ranks[0] for of_rank in of_ranks)


def test_overlap_changes_no_bits(measured: Measured) -> None:
    for rank in measured[4]:
        assert rank["after"]["state"] == rank["cases"]["V=4"]["state"]
        assert rank["after"]["rows"] == rank["cases"]["V=4"]["rows"]


def test_a_bucket_that_was_gone_too_early_goes_again_and_never_early_again(measured: Measured) -> None:
    for rank in measured[4]:
        first, *others = (events.count("exchange") for events in rank["cases"]["twice"]["events"])
        assert first > others[0] == max(others) == min(others)
        for events in rank["cases"]["twice"]["events"][1:]:
            assert last(events, "gradient") < events.index("exchange")


@pytest.mark.parametrize("world", WORLDS)
def test_calls_and_bytes_are_those_of_the_collectives(measured: Measured, world: int) -> None:
    """In bytes that a ring all-reduce is handed to send as much; a bucket is filled up to a multiple of the ranks."""
    for case in EXACT:
        if case.virtual_ranks and case.virtual_ranks < world:
            continue
        found = [rank["cases"][case.name] for rank in measured[world]]
        for update in range(UPDATES):
            calls = [len([event for event in rank["events"][update] if event != "gradient"]) for rank in found]
            assert calls == [rank["calls"][update] for rank in found]
            sent = max(rank["sent"][update] for rank in found)
            as_ring = 2 * (world - 1) / world * found[0]["bytes"][update]
            assert as_ring <= sent + 1 <= as_ring + 1 + calls[0] * 3 * 4 * world


@pytest.mark.parametrize("world", WORLDS)
def test_memory_is_what_the_plan_says(measured: Measured, world: int) -> None:
    """Activations, and the buckets that are under way, come on top of it."""
    for virtual in (4, 8):
        most = max(rank["copies"][str(virtual)] for rank in measured[world])
        assert gradient_copies(world, virtual) - 0.1 <= most <= gradient_copies(world, virtual) + 0.75


@pytest.mark.parametrize("world", WORLDS)
def test_buffers_that_forward_passes_change_are_refused(measured: Measured, world: int) -> None:
    for rank in measured[world]:
        assert "forward passes change 1.num_batches_tracked of the model" in rank["refusal"]
