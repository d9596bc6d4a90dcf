"""What a run that was begun is held to before anything of it is changed, without starting it."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest

from launcher.cli.request import Request, read_request
from launcher.cli.run_elastic import run_elastic
from launcher.cli.run_here import RunChoice, run_here
from launcher.errors import RequestError
from launcher.rundir.identity import NEW_WANDB_RUN
from launcher.rundir.layout import RunDirectory
from launcher.rundir.status import RunStatus, State
from launcher.runners.fork import kept_unless_begun, settle_fork
from launcher.runners.resume import go_on, has_changed, take_up, unfinished_run
from tests.faults.table import Kind
from tests.processes import ROOT

MORTAL = ROOT / "tests/tasks/mortal.yaml"


def begun(folder: Path, request: Request, state: State = "done") -> RunDirectory:
    """A run of a request, as far as what its launcher writes."""
    run = RunDirectory(folder)
    folder.mkdir(parents=True)
    run.plan.write_text(request.plan.to_json())
    RunStatus(state, 4).write(run)
    return run


@pytest.mark.fault(
    Kind.REQUEST,
    "the recipe has changed at a resume of a finished run",
    by="more updates",
    outcome="refused with the difference; by --fork it goes on",
)
@pytest.mark.parametrize("elastic", [False, True], ids=["here", "elastic"])
def test_a_finished_run_is_held_to_its_recipe(tmp_path: Path, elastic: bool) -> None:
    nodes = ["launch.nodes=1:2"] if elastic else []
    first, more = (read_request(MORTAL, [f"train.updates={updates}", *nodes]) for updates in (4, 8))
    run = begun(tmp_path / "it", first)
    choice = RunChoice(tmp_path, "it", resume=True)
    start = run_elastic if elastic else run_here
    with pytest.raises(RequestError, match=r"train\.updates: the run was begun with 4, not 8\..*--fork"):
        start(more, choice)
    assert start(first, choice) == 0
    assert has_changed(run, more.plan, fork=True)


def test_a_fork_takes_the_data_as_they_are_now(tmp_path: Path) -> None:
    request = read_request(MORTAL, [])
    run = begun(tmp_path / "it", request)
    run.data.write_text("{}")
    take_up(run, request.plan, fork=False, say=print)
    assert run.data.exists()
    take_up(run, request.plan, fork=True, say=print)
    assert not run.data.exists()


def test_the_run_to_go_on_with_is_one_of_the_same_recipe(tmp_path: Path) -> None:
    """Whatever its id begins with: a recipe's name may be the beginning of another's."""
    mine, other = (read_request(MORTAL, [f"name={name}"]) for name in ("eye", "eye-large"))
    begun(tmp_path / "eye-large-20990101-000000", other, "failed")
    assert unfinished_run(tmp_path, "eye") is None
    begun(tmp_path / "eye-20200101-000000", mine, "failed")
    begun(tmp_path / "eye-20200101-000000-2", mine, "preempted")
    begun(tmp_path / "eye-20200101-000000-10", mine, "done")
    assert unfinished_run(tmp_path, "eye") == "eye-20200101-000000-2"
    begun(tmp_path / "chosen", mine, "failed")
    assert unfinished_run(tmp_path, "eye") == "chosen"
    assert unfinished_run(tmp_path, "eye-large") == "eye-large-20990101-000000"


@pytest.mark.fault(
    Kind.REQUEST,
    "a fork cannot begin",
    by="another plan, and no update",
    outcome="the run is left as it was, and goes on with its own recipe",
)
@pytest.mark.parametrize("trained", [False, True])
def test_a_fork_that_makes_no_update_leaves_the_run_as_it_was(tmp_path: Path, trained: bool) -> None:
    first, other = (read_request(MORTAL, [f"optimizer.name={name}"]) for name in ("sgd", "adamw"))
    run = begun(tmp_path / "it", first)
    run.data.write_text("{}")
    run.wandb_id.write_text("mine")
    run.metrics.write_text('{"train/global_step": 1}\n')
    files = (run.plan, run.data, run.wandb_id, run.status)
    before = [path.read_bytes() for path in files]
    with kept_unless_begun(run, fork=True):
        take_up(run, other.plan, fork=True, say=print)
        assert run.wandb_id.read_text().strip() == NEW_WANDB_RUN
        run.plan.write_text(other.plan.to_json())
        run.recipe.write_text("name: other")
        RunStatus("failed").write(run)
        if trained:
            run.metrics.write_text('{"train/global_step": 1, "other": 1}\n')
    if trained:
        assert run.recipe.exists()
        assert run.wandb_id.read_text().strip() == NEW_WANDB_RUN
        assert not has_changed(run, other.plan, fork=False)
    else:
        assert not run.recipe.exists()
        assert [path.read_bytes() for path in files] == before


class _Killed(BaseException):
    """A launcher that is killed does nothing more."""


@pytest.mark.fault(
    Kind.PROCESS,
    "the launcher of a fork is killed before its first update",
    by="SIGKILL: what it would do at its end is not done",
    outcome="the next launch finds the run as it was, and goes on with its own recipe",
)
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_fork_that_is_killed_before_an_update_leaves_the_run_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: bool, damaged: bool
) -> None:
    first, other = (read_request(MORTAL, [f"optimizer.name={name}"]) for name in ("sgd", "adamw"))
    run = begun(tmp_path / "it", first)
    for path in (run.data, run.wandb_id, run.recipe):
        path.write_text("mine")
    if damaged:
        for path in (run.plan, run.wandb_id, run.status):
            path.write_bytes(b"\xff\xfe")
    files = (run.plan, run.data, run.wandb_id, run.status, run.recipe)
    before = [path.read_bytes() for path in files]
    with monkeypatch.context() as patch, suppress(_Killed), kept_unless_begun(run, fork=True):
        take_up(run, other.plan, fork=True, say=print)
        run.plan.write_text(other.plan.to_json())
        RunStatus("running").write(run)
        if trained:
            run.metrics.write_text('{"train/global_step": 1}\n')
            go_on(run, other.plan, print)  # another try, after a rank has died: the row goes, and the fork stays
        patch.setattr("launcher.runners.fork.settle_fork", lambda run: None)
        raise _Killed
    settle_fork(run)
    assert not run.before_fork.exists()
    assert run.data.exists() != trained
    if not trained:
        assert [path.read_bytes() for path in files] == before
    if not damaged or trained:
        assert not has_changed(run, (other if trained else first).plan, fork=False)


def test_what_is_put_back_is_put_back_though_it_takes_two_launches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = read_request(MORTAL, [])
    run = begun(tmp_path / "it", request)
    run.wandb_id.write_text("mine")
    replace, replaced = Path.replace, list[Path]()

    def once(path: Path, to: Path) -> Path:
        if path.parent == run.before_fork and replaced:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replaced.append(to)
        return replace(path, to)

    with monkeypatch.context() as patch, kept_unless_begun(run, fork=True):
        run.plan.write_text("other")
        run.wandb_id.write_text("other")
        replaced.clear()
        patch.setattr(Path, "replace", once)
    assert replaced == [run.plan]
    assert run.wandb_id.read_text() == "other"
    settle_fork(run)
    assert (run.plan.read_text(), run.wandb_id.read_text()) == (request.plan.to_json(), "mine")
