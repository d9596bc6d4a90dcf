"""Ranks that die in any way at any moment: the culprit is named, and the run ends as if nothing had been."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.faults.runs import Run, sample_of
from tests.faults.table import Kind

GOES_ON = "named with its rank; the run goes on after its last checkpoint and ends bit for bit as if undisturbed"
STALL = "guard.stall=4"


@dataclass(frozen=True)
class Death:
    """How a rank dies.

    Attributes:
        name: method of the task.
        what: what goes wrong, for the table.
        by: how it is injected.
        said: what is said of it, after the rank.
        kind: what is hit.
        settings: of the recipe.
    """

    name: str
    what: str
    by: str
    said: str
    kind: Kind = Kind.PROCESS

    @property
    def mark(self) -> pytest.MarkDecorator:
        """Its row of the table."""
        return pytest.mark.fault(self.kind, self.what, by=self.by, outcome=GOES_ON)


KILLED = "was killed by SIGKILL"
WAITED_FOR = "Hang: no progress for 4 s; the other ranks wait for it"
DEATHS = (
    Death("is_killed", "a rank dies between two micro-batches", "SIGKILL after the first of two", KILLED),
    Death("is_killed_in_backward", "a rank dies in a backward", "SIGKILL when it is almost through", KILLED),
    Death("reads_a_null_pointer", "a rank crashes", "a null pointer is read", "was killed by SIGSEGV"),
    Death("aborts", "a rank aborts", "`os.abort()`", "was killed by SIGABRT"),
    Death("fails", "a rank raises an exception", "in the loss", "ValueError: bad pixel"),
    Death(
        "fails_with_a_thread",
        "a rank raises an exception while a thread of the user's lives",
        "the thread is no daemon and waits for ever",
        "ValueError: bad pixel",
    ),
    Death("leaves", "a rank leaves too early", "`sys.exit(0)`", "SystemExit: 0"),
    Death("leaves_at_once", "a rank leaves too early", "`os._exit(0)`", "ended before its last update"),
    Death(
        "survives_a_lack_of_memory",
        "a rank passes over a batch that the others train on",
        "user code catches OutOfMemoryError",
        "bytes of gradients were reduced instead of",
    ),
)
HANGS = (
    Death(
        "fails_before_a_barrier", "a rank fails and waits in `finally`", "an exception, then `barrier()`", WAITED_FOR
    ),
    Death(
        "matches_for_ever",
        "a rank computes for ever and lets no thread of Python go on",
        "a regular expression",
        WAITED_FOR,
        Kind.HANG,
    ),
    Death(
        "loading_fails",
        "a loading process raises an exception",
        "in one sample",
        "SampleError: sample {sample}: ValueError: not a picture",
        Kind.VALUE,
    ),
    Death("loading_is_killed", "a loading process dies", "SIGKILL", "RuntimeError: DataLoader worker (pid", Kind.VALUE),
    Death("loading_waits", "a loading process hangs", "in one sample", WAITED_FOR, Kind.VALUE),
)


def marked(*deaths: Death) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The rows of the table that a test shows."""

    def mark(test: Callable[..., None]) -> Callable[..., None]:
        for death in deaths:
            test = death.mark(test)
        return test

    return mark


def assert_each_is_survived(deaths: tuple[Death, ...], apart: int, it: Run, whole: Run, *settings: str) -> None:
    """One after the other, so many updates apart, in either rank, with the first of two micro-batches done."""
    samples = [sample_of(apart * number + 3, rank=number % 2, micro_step=2) for number in range(len(deaths))]
    faults = dict(zip(samples, (death.name for death in deaths), strict=True))
    done = it.launch(*it.faults(faults), *settings, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    causes = done.stderr.splitlines()
    assert len(causes) == len(deaths), done.stderr
    for number, (death, sample, cause) in enumerate(zip(deaths, samples, causes, strict=True)):
        assert cause.startswith(f"launcher: Rank {number % 2} "), cause
        assert death.said.format(sample=sample) in cause
    assert it.result() == whole.result()


@marked(*DEATHS)
@pytest.mark.long
@pytest.mark.timeout(900)
def test_ranks_that_die(it: Run, whole: Run, recovered: Callable[[float], None]) -> None:
    assert_each_is_survived(DEATHS, 2, it, whole)
    recovered(it.seconds_to_recover())


@marked(*HANGS)
@pytest.mark.long
@pytest.mark.timeout(900)
def test_ranks_that_get_no_further(it: Run, whole: Run, recovered: Callable[[float], None]) -> None:
    """Samples are loaded ahead, so that there must be a checkpoint between what happens."""
    assert_each_is_survived(HANGS, 5, it, whole, STALL, "data.workers=1")
    recovered(it.seconds_to_recover())


@pytest.mark.long
@pytest.mark.parametrize("name", ["leaves_at_once", "fails_before_a_barrier", "is_killed_in_backward"])
def test_status_names_the_culprit_and_not_its_victims(name: str, it: Run) -> None:
    """Of three ranks the one in the middle fails, and nothing is tried again."""
    (death,) = (death for death in (*DEATHS, *HANGS) if death.name == name)
    world = ("launch.nproc_per_node=3", "batch.global=12", "launch.restarts=0")
    done = it.launch(*it.faults({sample_of(1, rank=0, micro_step=2): name}), *world, STALL)
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stderr.startswith("launcher: Rank 1 "), done.stderr
    assert it.status()["failure"]["rank"] == 1
    assert death.said in it.status()["failure"]["exception"]


@pytest.mark.fault(
    Kind.PROCESS, "a rank dies while a gradient is sent", by="SIGKILL within an all-reduce of 16 MB", outcome=GOES_ON
)
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_rank_that_dies_in_the_middle_of_a_reduction(it: Run, recovered: Callable[[float], None]) -> None:
    settings = ("task.entry=fatal.py:Wide", "parallel.bucket_mb=1", "checkpoint.every=4", "optimizer.name=sgd")
    whole = Run(it.runs, "whole")
    assert whole.launch(*settings, timeout=280).returncode == 0
    sample = sample_of(6, rank=1, micro_step=2)
    done = it.launch(*it.faults({sample: "is_killed_while_sending_in_backward"}), *settings, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.startswith(f"launcher: Rank 1 {KILLED}"), done.stderr
    assert it.result() == whole.result()
    recovered(it.seconds_to_recover())
