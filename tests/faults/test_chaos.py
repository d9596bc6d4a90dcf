"""Runs whose launches are killed one after the other end as one that nothing was done to, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from launcher.rundir.layout import RunDirectory
from tests.faults.chaos import KILLS, SETTINGS, UPDATES, live_through
from tests.faults.table import Kind
from tests.metrics import comparable_rows
from tests.processes import launcher, processes_with

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

EXACT, USUAL = "tests/tasks/exact.yaml", "tests/tasks/mortal.yaml"
SEEDS = range(20)
WORLDS = (1, 1, 2, 2, 3, 4)  # what is drawn from: fewer ranks start sooner
ALIKE = ("model.safetensors", "optimizer.safetensors")
USUAL_KILLS = 4
BY = (
    "at random: SIGKILL of a rank, of rank 0 while it writes a checkpoint, of the agent, of its keeper, of the "
    "launcher; SIGTERM to the launcher; SIGSTOP of a rank"
)
ENGINES: dict[str, tuple[str, ...]] = {
    "ddp": (),
    "fsdp": ("parallel.engine=fsdp", "parallel.fsdp.wrap=[Linear]"),
    "zero2": ("parallel.engine=deepspeed", "parallel.deepspeed.stage=2"),
}


class Undisturbed(Protocol):
    """Makes a run that nothing is done to, or gives the one that was made."""

    def __call__(self, recipe: str, world: int, engine: str = "ddp") -> RunDirectory:
        """The run of a recipe on so many ranks."""
        ...


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Runs that nothing is done to, made when they are asked for."""
    runs = tmp_path_factory.mktemp("undisturbed")

    def made(recipe: str, world: int, engine: str = "ddp") -> RunDirectory:
        run = RunDirectory(runs / f"{Path(recipe).stem}_{engine}_{world}")
        if not run.path.exists():
            where = ("--runs", str(runs), "--run-id", run.path.name)
            done = launcher(
                "run", recipe, *SETTINGS, *ENGINES[engine], f"launch.nproc_per_node={world}", *where, timeout=300
            )
            assert done.returncode == 0, done.stdout + done.stderr
        return run

    return made


def state(run: RunDirectory) -> dict[str, bytes]:
    """The files of the last checkpoint of a run, but the one that says who wrote it."""
    folder = run.checkpoints / f"step_{UPDATES:08d}"
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "MANIFEST.json"}


@pytest.mark.fault(
    Kind.CHAOS,
    f"an exact run is killed {KILLS} times ({len(SEEDS)} seeds), and goes on with 1 to 4 ranks, drawn each time",
    by=BY,
    outcome="model and optimizer bit for bit those of an undisturbed run on 1 rank; each update once",
)
@pytest.mark.parametrize("seed", SEEDS)
def test_an_exact_run_ends_with_the_same_bits_on_whatever_ranks(
    tmp_path: Path,
    seed: int,
    undisturbed: Undisturbed,
    recovered: Callable[[float], None],
) -> None:
    it, whole = RunDirectory(tmp_path / "it"), undisturbed(EXACT, 1)
    story = live_through(EXACT, it, seed, WORLDS)
    assert story.kills == KILLS, str(story)
    for name in ALIKE:
        assert state(it)[name] == state(whole)[name], f"{name} differs\n{story}"
    assert [row["train/global_step"] for row in comparable_rows(it.path)] == list(range(1, UPDATES + 1)), str(story)
    assert list(processes_with(str(tmp_path))) == [], str(story)
    recovered(max(story.recoveries()))


@pytest.mark.fault(
    Kind.CHAOS,
    f"a run of the default mode is killed {USUAL_KILLS} times (4 seeds), and goes on with as many ranks, 2 or 3",
    by=BY,
    outcome="its last checkpoint bit for bit that of an undisturbed run, and its rows",
)
@pytest.mark.parametrize(("world", "seed"), [(2, 100), (2, 101), (3, 102), (3, 103)])
def test_a_run_of_the_default_mode_ends_with_the_same_bits_on_the_same_ranks(
    tmp_path: Path,
    world: int,
    seed: int,
    undisturbed: Undisturbed,
    recovered: Callable[[float], None],
) -> None:
    it, whole = RunDirectory(tmp_path / "it"), undisturbed(USUAL, world)
    story = live_through(USUAL, it, seed, (world,), USUAL_KILLS)
    assert story.kills == USUAL_KILLS, str(story)
    assert state(it) == state(whole), str(story)
    assert comparable_rows(it.path) == comparable_rows(whole.path), str(story)
    assert list(processes_with(str(tmp_path))) == [], str(story)
    recovered(max(story.recoveries()))


@pytest.mark.fault(
    Kind.CHAOS,
    f"a run whose 2 ranks hold the model in parts (FSDP, ZeRO 2) is killed {USUAL_KILLS} times, and goes on",
    by=BY,
    outcome="its last checkpoint bit for bit that of an undisturbed run, and its rows",
)
@pytest.mark.parametrize(("engine", "seed"), [("fsdp", 104), ("fsdp", 105), ("zero2", 106)])
def test_a_run_in_parts_ends_with_the_same_bits_on_the_same_ranks(
    tmp_path: Path, engine: str, seed: int, undisturbed: Undisturbed, recovered: Callable[[float], None]
) -> None:
    it, whole = RunDirectory(tmp_path / "it"), undisturbed(USUAL, 2, engine)
    story = live_through(USUAL, it, seed, (2,), USUAL_KILLS, ENGINES[engine])
    assert story.kills == USUAL_KILLS, str(story)
    assert state(it) == state(whole), str(story)
    assert comparable_rows(it.path) == comparable_rows(whole.path), str(story)
    assert list(processes_with(str(tmp_path))) == [], str(story)
    recovered(max(story.recoveries()))
