"""No run goes on with what another recipe has learned, unless it is asked to."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.cli.request import Request, read_request
from launcher.cli.run_elastic import run_elastic
from launcher.cli.run_here import RunChoice, run_here
from launcher.errors import RequestError, RunDirectoryUnusableError
from launcher.plan.changes import changes, recipe_mark
from launcher.plan.planner import Plan, with_facts
from launcher.rundir import checkpoints
from launcher.rundir.checkpoints import Checkpoint, Checkpoints, NoCheckpointError
from launcher.rundir.durable import write_durably
from launcher.rundir.identity import marks_of
from launcher.rundir.layout import RunDirectory
from launcher.rundir.lineage import RECIPE
from launcher.rundir.manifest import Manifest, UnreadableCheckpointError, verified
from launcher.rundir.status import RunStatus
from launcher.runners.new_run import begin_new, has_begun
from launcher.runners.resume import go_on, has_changed, take_up
from launcher.trackers.wandb_id import wandb_id_of
from tests.faults.table import Kind
from tests.processes import ROOT
from tests.recipes.golden import RECIPES

MORTAL = ROOT / "tests/tasks/mortal.yaml"


def request_of(*settings: str) -> Request:
    return read_request(MORTAL, list(settings))


def saved(run: RunDirectory, plan: Plan, update: int = 4, content: bytes = b"{}") -> Checkpoint:
    """A checkpoint as the workers of a plan write it."""
    store = Checkpoints(run, print)
    folder = store.begin(update)
    facts = {"training.json": write_durably(folder / "training.json", [content])}
    return store.commit(folder, update, facts, {**marks_of(run), RECIPE: recipe_mark(plan)})


def begun(folder: Path, plan: Plan, updates: int = 4) -> RunDirectory:
    """A run that has made some updates, and saved the last."""
    run = RunDirectory(folder)
    folder.mkdir(parents=True)
    run.plan.write_text(plan.to_json())
    run.metrics.write_text("".join(f'{{"train/global_step": {step}}}\n' for step in range(1, updates + 1)))
    RunStatus("failed", updates).write(run)
    saved(run, plan, updates)
    return run


def delete_files(run: RunDirectory) -> None:
    """As `rm RUN/*` does: not the folders, and not what begins with a dot."""
    for path in run.path.iterdir():
        if path.is_file() and not path.name.startswith("."):
            path.unlink()


@pytest.mark.fault(
    Kind.DIRECTORY,
    "the files of a run are deleted, and its checkpoints are not",
    by="rm RUN/*; then a new run of another recipe",
    outcome="refused, exit code 2; --resume auto with another recipe is refused too",
)
@pytest.mark.parametrize("elastic", [False, True], ids=["here", "elastic"])
def test_no_new_run_begins_where_checkpoints_are(tmp_path: Path, elastic: bool) -> None:
    nodes = ["launch.nodes=1:2"] if elastic else []
    first, other = (request_of(f"optimizer.lr={rate}", *nodes) for rate in (0.01, 0.02))
    delete_files(begun(tmp_path / "it", first.plan))
    start = run_elastic if elastic else run_here
    for request in (first, other):
        with pytest.raises(RunDirectoryUnusableError, match="holds a run already"):
            start(request, RunChoice(tmp_path, "it"))
    with pytest.raises(RunDirectoryUnusableError, match=r"plan\.json is missing: .* Go on by --fork"):
        start(other, RunChoice(tmp_path, "it", resume=True))


@pytest.mark.parametrize("name", ["step_00000004", "bad_step_00000004.1", ".unfinished_step_00000004.1"])
def test_whatever_is_among_the_checkpoints_is_of_a_run(tmp_path: Path, name: str) -> None:
    run = RunDirectory(tmp_path)
    assert not has_begun(run)
    run.checkpoints.mkdir()
    assert not has_begun(run)
    (run.checkpoints / name).mkdir()
    assert has_begun(run)


def test_a_new_run_is_another_one_to_wandb(tmp_path: Path) -> None:
    """Where only what begins with a dot is left of one that was deleted."""
    run = RunDirectory(tmp_path)
    before, ids = wandb_id_of(run), marks_of(run)
    begin_new(run)
    assert wandb_id_of(run) != before
    assert marks_of(run)["run"] != ids["run"]


def test_a_run_that_has_lost_its_plan_is_known_by_its_checkpoint(tmp_path: Path) -> None:
    first, other = (request_of(f"optimizer.lr={rate}").plan for rate in (0.01, 0.02))
    run = begun(tmp_path / "it", first)
    run.plan.unlink()
    assert not has_changed(run, first, fork=False)
    assert take_up(run, first, fork=False, say=print) == 4
    with pytest.raises(RunDirectoryUnusableError, match=r"plan\.json is missing"):
        take_up(run, other, fork=False, say=print)
    assert take_up(run, other, fork=True, say=print) == 4
    assert wandb_id_of(run)


def test_a_run_whose_plan_is_damaged_is_known_by_its_checkpoint(tmp_path: Path) -> None:
    """Or was written by a later version, which has keys that this one does not know."""
    first, other = (request_of(f"optimizer.lr={rate}").plan for rate in (0.01, 0.02))
    run = begun(tmp_path / "it", first)
    run.plan.write_text(first.to_json().replace('"recipe"', '"recipes"', 1))
    assert not has_changed(run, first, fork=False)
    with pytest.raises(RunDirectoryUnusableError, match=r"plan\.json is damaged, or was written by another version"):
        has_changed(run, other, fork=False)
    assert has_changed(run, other, fork=True)


def test_a_project_that_was_moved_is_the_same_one(tmp_path: Path) -> None:
    recipe = request_of().plan.recipe
    assert recipe.task is not None
    file = Path(recipe.task.entry.rpartition(":")[0])
    moved, renamed = (
        recipe.task.model_copy(update={"entry": f"{entry}:Mortal"})
        for entry in (tmp_path / file.name, file.with_name("other.py"))
    )
    run = begun(tmp_path / "it", request_of().plan)
    plan = request_of().plan
    there = plan.model_copy(update={"recipe": recipe.model_copy(update={"task": moved})})
    assert not has_changed(run, there, fork=False)
    assert take_up(run, there, fork=False, say=print) == 4
    with pytest.raises(
        RequestError, match=r"task\.entry: the run was begun with mortal.py:Mortal, not other.py:Mortal"
    ):
        has_changed(run, plan.model_copy(update={"recipe": recipe.model_copy(update={"task": renamed})}), fork=False)


def test_a_plan_that_cannot_be_read_now_is_not_taken_for_none(tmp_path: Path) -> None:
    plan = request_of().plan
    run = begun(tmp_path / "it", plan)
    run.plan.unlink()
    run.plan.mkdir()
    for fork in (False, True):
        with pytest.raises(RunDirectoryUnusableError, match="cannot be read now"):
            has_changed(run, plan, fork=fork)


@pytest.mark.fault(
    Kind.DIRECTORY,
    "the plan of a run is another one's, and its checkpoints are not",
    by="a copied plan.json",
    outcome="refused, exit code 2, naming the checkpoint; --fork goes on",
)
def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    first, other = (request_of(f"optimizer.lr={rate}").plan for rate in (0.01, 0.02))
    run = begun(tmp_path / "it", first)
    run.plan.write_text(other.to_json())
    rows = run.metrics.read_bytes()
    with pytest.raises(RequestError, match=r"step_00000004 was written with another recipe .* --fork"):
        take_up(run, other, fork=False, say=print)
    assert run.metrics.read_bytes() == rows
    take_up(run, other, fork=True, say=print)
    assert go_on(run, other, print) == 4  # as when a rank of the fork dies before it has saved anything
    with pytest.raises(RequestError):
        go_on(run, first.model_copy(update={"recipe": request_of("train.updates=7").plan.recipe}), print)


def test_an_older_checkpoint_that_tells_no_recipe_is_taken(tmp_path: Path) -> None:
    plan = request_of().plan
    run = RunDirectory(tmp_path)
    store = Checkpoints(run, print)
    folder = store.begin(4)
    store.commit(folder, 4, {"training.json": write_durably(folder / "training.json", [b"{}"])}, marks_of(run))
    run.plan.write_text(plan.to_json())
    assert take_up(run, plan, fork=False, say=print) == 4
    run.plan.unlink()
    with pytest.raises(RunDirectoryUnusableError, match=r"plan\.json is missing"):
        take_up(run, plan, fork=False, say=print)


@pytest.mark.fault(
    Kind.DISK,
    "the newest checkpoint cannot be read for a while, and the run goes on from the one before",
    by="a fork meanwhile",
    outcome="the newest is set aside: what the fork makes takes its place, and nothing of the old recipe comes back",
)
@pytest.mark.parametrize("fork", [False, True])
def test_what_was_passed_over_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fork: bool) -> None:
    first, other = (request_of(f"optimizer.lr={rate}").plan for rate in (0.01, 0.02))
    run = begun(tmp_path / "it", first, updates=8)
    saved(run, first, 12, b"[1]")
    now = other if fork else first
    verify = verified
    with monkeypatch.context() as patch:

        def unreadable(folder: Path) -> Manifest:
            if folder.name == "step_00000012":
                raise UnreadableCheckpointError("training.json cannot be read now: Input/output error")
            return verify(folder)

        patch.setattr(checkpoints, "verified", unreadable)
        assert take_up(run, now, fork=fork, say=print) == 8
    run.plan.write_text(now.to_json())
    assert go_on(run, now, print) == 8
    assert (saved(run, now, 12, b"[2]").folder / "training.json").read_bytes() == b"[2]"
    assert go_on(run, now, print) == 12


@pytest.mark.fault(
    Kind.REQUEST,
    "a fork to fewer updates than were made",
    by="train.updates=10 --fork on a run of 20",
    outcome="refused, exit code 2; the run is left as it was",
)
@pytest.mark.parametrize("fewer", ["train.updates=3", "train.samples=66"])
def test_no_fork_ends_before_it_begins(tmp_path: Path, fewer: str) -> None:
    settings = [fewer] if "updates" in fewer else ["train.updates=null", "data.samples=150", fewer]
    run = begun(tmp_path / "it", request_of("train.updates=4").plan)
    RunStatus("done", 4).write(run)
    before = (run.plan.read_bytes(), run.metrics.read_bytes(), run.status.read_bytes())
    key = fewer.partition("=")[0].replace(".", r"\.")
    with pytest.raises(RequestError, match=f"{key}: the run goes on after update 4, and this recipe ends after 3"):
        run_here(request_of(*settings), RunChoice(tmp_path, "it", resume=True, fork=True))
    assert (run.plan.read_bytes(), run.metrics.read_bytes(), run.status.read_bytes()) == before
    assert not run.before_fork.exists()


@pytest.mark.fault(
    Kind.DISK,
    "all checkpoints are bad, after the launcher was killed",
    by="a file too many",
    outcome="exit code 65, and `status.json` says so: nothing runs",
)
@pytest.mark.parametrize("elastic", [False, True], ids=["here", "elastic"])
@pytest.mark.parametrize("fork", [False, True])
def test_a_run_that_cannot_be_taken_up_is_not_said_to_run(tmp_path: Path, elastic: bool, fork: bool) -> None:
    request = request_of(*(["launch.nodes=1:2"] if elastic else []))
    run = begun(tmp_path / "it", request.plan)
    RunStatus("running", 4, 88).write(run)
    (run.checkpoints / "step_00000004" / "strange").touch()
    with pytest.raises(NoCheckpointError):
        (run_elastic if elastic else run_here)(request, RunChoice(tmp_path, "it", resume=True, fork=fork))
    assert RunStatus.read(run) == RunStatus("failed", 4, 88, exit_code=65)


@pytest.mark.parametrize(
    "setting",
    [
        "optimizer.lr=0.02",
        "train.updates=9",
        "batch.global=24",
        "train.seed=1",
        "launch.nproc_per_node=3",
        "batch.micro=2",
        "checkpoint.keep=5",
        "optimizer.lr=0.01",
    ],
)
def test_the_mark_of_a_recipe_is_another_one_where_a_run_is_refused(setting: str) -> None:
    begun_with, now = request_of().plan, request_of(setting).plan
    assert (recipe_mark(begun_with) != recipe_mark(now)) == bool(list(changes(begun_with, now)))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_worker_gives_a_recipe_the_mark_that_the_launcher_gives_it(path: Path) -> None:
    try:
        plan = read_request(path, []).plan
    except RequestError:
        pytest.skip("not for this machine")
    found = with_facts(plan, samples=plan.recipe.data.samples or 10**6, parameters=plan.recipe.model.parameters or 9)
    read = Plan.model_validate_json(found.to_json())
    assert recipe_mark(plan) == recipe_mark(found) == recipe_mark(read)
