"""What came of the runs of a sweep, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from launcher.cli.output import lasting_console
from launcher.cli.run_here import shown_path
from launcher.cli.sweep_request import PlannedRun, Sweep
from launcher.errors import LauncherError
from launcher.plan.sweep import short_names
from launcher.report.evaluation import Measured, evaluations, headline
from launcher.report.read import RunRecord, read_run
from launcher.rundir.status import RunStatus
from launcher.words import UNKNOWN, count, number

_MOST_MEASURED = 3  # columns of measurements
_AS_WIDE_AS_IT_IS = 1000  # a terminal breaks long lines by itself, and no number is cut


@dataclass(frozen=True)
class Result:
    """How a run of a sweep stands.

    Attributes:
        planned: the run.
        state: in the words of its status, or `not begun`.
        updates: updates made.
        loss: the last training loss.
        measured: what was measured on evaluation data, by name.
        why: why it failed, if it did.
    """

    planned: PlannedRun
    state: str
    updates: int = 0
    loss: float | None = None
    measured: Mapping[str, Measured] | None = None
    why: str = ""

    @property
    def evaluated(self) -> Mapping[str, Measured]:
        """What was measured; nothing in a run that got not so far."""
        return self.measured or {}


def results_of(sweep: Sweep, errors: Mapping[str, str] | None = None) -> list[Result]:
    """How the runs of a sweep stand, in the order of the grid.

    Args:
        sweep: the sweep.
        errors: why a run could not be taken up, by its id.
    """
    return [_result(one, (errors or {}).get(one.run.run_id, "")) for one in sweep.runs]


def print_results(sweep: Sweep, errors: Mapping[str, str] | None = None) -> None:
    """Print how the runs of a sweep stand as a table, the best marked, and below it why runs failed."""
    console, results = lasting_console(soft_wrap=True), results_of(sweep, errors)
    console.width = _AS_WIDE_AS_IT_IS
    best = best_of(results)
    console.print(_table(results, best))
    for result in results:
        if result.why:
            console.print(Text(f"{result.planned.run.run_id}: {result.why}"))
    if best is not None:
        console.print(Text(f"best: {best.planned.run.run_id} ({_said(best)})"))
    console.print(Text(f"runs: {shown_path(sweep.folder.absolute())}"))


def _table(results: Sequence[Result], best: Result | None) -> Table:
    names, top = _measurements(results), _compared_by(results)
    varied = short_names(results[0].planned.run.varied)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in (*(varied.values() or ["run"]), "state"):
        table.add_column(Text(heading))
    best_heading = [f"best {top}"] if top else []
    for heading in ("updates", "train/loss", *(f"eval/{name}" for name in names), *best_heading):
        table.add_column(Text(heading), justify="right")
    for result in results:
        settings = list(result.planned.run.varied.values()) or [result.planned.run.run_id]
        cells = [*settings, result.state, count(result.updates), number(result.loss)]
        cells += [_last(result.evaluated.get(name)) for name in names]
        cells += [_best(result.evaluated.get(top))] if top else []
        table.add_row(*map(Text, cells), style="bold" if result is best else "")
    return table


def best_of(results: Sequence[Result]) -> Result | None:
    """The run with the best of what is measured first, or with the lowest loss; None where nothing can be compared."""
    top = _compared_by(results)
    if top:
        found = [(result, measured) for result in results if (measured := result.evaluated.get(top)) is not None]
        known = [(result, one.best.value, one.lower_is_better) for result, one in found if one.best is not None]
        return min(known, key=lambda entry: entry[1] if entry[2] else -entry[1])[0]
    losses = [result for result in results if result.loss is not None and result.state == "done"]
    return min(losses, key=lambda result: result.loss or 0.0, default=None)


def _result(one: PlannedRun, error: str) -> Result:
    status = RunStatus.read(one.directory)
    try:
        record: RunRecord | None = read_run(one.directory)
    except (LauncherError, OSError):
        record = None
    state = status.state if status is not None else "failed" if error else "not begun"
    failure = status.failure.exception if status is not None and status.failure and state == "failed" else ""
    if record is None:
        return Result(one, state, why=error or failure)
    losses = record.values("train/loss")
    measured = {found.name: found for found in evaluations(record)}
    return Result(one, state, record.updates, losses[-1] if losses else None, measured, error or failure)


def _compared_by(results: Sequence[Result]) -> str:
    """The measurement by which runs are compared; empty where there is none whose best is known."""
    top = headline(found for result in results for found in result.evaluated.values())
    return top.name if top else ""


def _measurements(results: Sequence[Result]) -> list[str]:
    """The measurements to show, the one that runs are compared by first."""
    top = _compared_by(results)
    every = {name for result in results for name in result.evaluated}
    return sorted(every, key=lambda name: (name != top, name))[:_MOST_MEASURED]


def _last(measured: Measured | None) -> str:
    return UNKNOWN if measured is None else number(measured.last.value)


def _best(measured: Measured | None) -> str:
    return UNKNOWN if measured is None or measured.best is None else number(measured.best.value)


def _said(best: Result) -> str:
    top = headline(best.evaluated.values())
    if top is None or top.best is None:
        return f"train/loss {number(best.loss)}"
    return f"eval/{top.name} {number(top.best.value)} after update {count(top.best.update)}"
