"""Exact runs: the same bits on 1, 2, 3 and 4 ranks, which plain DDP does not have."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain
from typing import Any

import pytest

from launcher.plan.exact import gradient_copies
from tests.distributed.exact import CASES, UPDATES, Case
from tests.distributed.worlds import Worlds

WORLDS = (1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long), 4)
COMPARED = [pytest.param((1, 4), id="1 and 4"), pytest.param((1, 2, 3, 4), id="1 to 4", marks=pytest.mark.long)]
EXACT = [case for case in CASES if case.virtual_ranks]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """World size → what each rank found."""
    return Worlds("tests.distributed.exact", tmp_path_factory.mktemp("exact"))


def everything(measured: Worlds, worlds: Iterable[int], case: Case, what: str) -> list[Any]:
    """What all ranks found, of those of the worlds that the case goes on."""
    possible = [world for world in worlds if world <= (case.virtual_ranks or world)]
    return [rank["cases"][case.name][what] for rank in chain.from_iterable(measured[world] for world in possible)]


def last(events: list[str], event: str) -> int:
    """The place of the last of its kind."""
    return len(events) - 1 - events[::-1].index(event)


@pytest.mark.parametrize("worlds", COMPARED)
@pytest.mark.parametrize("case", EXACT, ids=lambda case: case.name)
def test_parameters_and_optimizer_are_the_same_bits_on_any_ranks(
    measured: Worlds, case: Case, worlds: tuple[int, ...]
) -> None:
    assert len(set(everything(measured, worlds, case, "state"))) == 1


def test_plain_ddp_is_seen_to_differ(measured: Worlds) -> None:
    (plain,) = (case for case in CASES if not case.virtual_ranks)
    of_worlds = [measured[world][0]["cases"][plain.name]["state"] for world in (1, 4)]
    assert len(set(of_worlds)) > 1


def test_virtual_ranks_are_part_of_what_the_bits_follow_from(measured: Worlds) -> None:
    four, five = (everything(measured, [1], case, "state")[0] for case in EXACT if case.name.startswith("prime"))
    assert four != five


@pytest.mark.parametrize("worlds", COMPARED)
@pytest.mark.parametrize("case", EXACT, ids=lambda case: case.name)
def test_rows_say_the_same(measured: Worlds, case: Case, worlds: tuple[int, ...]) -> None:
    first, *others = everything(measured, worlds, case, "rows")
    assert all(other == first for other in others)
    noise, *other_noise = everything(measured, worlds, case, "noise")
    for other in other_noise:
        assert [value is None for value in other] == [value is None for value in noise]
        assert all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(noise, other, strict=True) if a is not None)


@pytest.mark.parametrize(
    ("world", "copies"),
    [(1, 0), (4, 1), *(pytest.param(*other, marks=pytest.mark.long) for other in ((2, 1), (3, 1.5)))],
)
def test_aligned_blocks_cost_what_a_ring_does(measured: Worlds, world: int, copies: float) -> None:
    for rank in measured[world]:
        case = rank["cases"]["V=8"]
        assert set(case["bytes"]) == {int(case["gradient_bytes"] * copies)}


def test_with_a_virtual_rank_each_buckets_go_while_the_backward_goes_on(measured: Worlds) -> None:
    for rank in measured[4]:
        for events in rank["cases"]["V=4"]["events"]:
            assert events.index("exchange") < last(events, "gradient")
        for events in (
            *rank["after"]["events"],
            *rank["cases"]["V=8"]["events"],
            *rank["cases"]["sequential"]["events"],
        ):
            assert last(events, "gradient") < events.index("exchange")


@pytest.mark.long
def test_all_ranks_call_in_one_order(measured: Worlds) -> None:
    """Whatever gradients they have: of other micro-batches, of a layer that some do not use, or none."""
    for case in EXACT:
        of_ranks = [
            [[event for event in events if event != "gradient"] for events in rank["cases"][case.name]["events"]]
            for rank in measured[min(4, case.virtual_ranks or 4)]
        ]
        assert all(of_rank == of_ranks[0] for of_rank in of_ranks)


def test_overlap_changes_no_bits(measured: Worlds) -> None:
    for rank in measured[4]:
        assert rank["after"]["state"] == rank["cases"]["V=4"]["state"]
        assert rank["after"]["rows"] == rank["cases"]["V=4"]["rows"]


def test_a_bucket_that_was_gone_too_early_goes_again_and_never_early_again(measured: Worlds) -> None:
    for rank in measured[4]:
        first, *others = (events.count("exchange") for events in rank["cases"]["twice"]["events"])
        assert first > others[0] == max(others) == min(others)
        for events in rank["cases"]["twice"]["events"][1:]:
            assert last(events, "gradient") < events.index("exchange")


@pytest.mark.parametrize("world", WORLDS)
def test_calls_and_bytes_are_those_of_the_collectives(measured: Worlds, world: int) -> None:
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
def test_memory_is_what_the_plan_says(measured: Worlds, world: int) -> None:
    """Activations, and the buckets that are under way, come on top of it."""
    for virtual in (4, 8):
        most = max(rank["copies"][str(virtual)] for rank in measured[world])
        assert gradient_copies(world, virtual) - 0.1 <= most <= gradient_copies(world, virtual) + 0.75


@pytest.mark.parametrize("world", WORLDS)
def test_buffers_that_forward_passes_change_are_refused(measured: Worlds, world: int) -> None:
    for rank in measured[world]:
        batch, instance = rank["refusals"]
        assert "forward passes change 1.running_mean of the model" in batch
        assert "forward passes change 2.running_mean of the model" in instance
