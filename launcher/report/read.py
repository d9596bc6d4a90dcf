"""A run directory as one record, read while the run writes and after it was killed: what is cut off is left out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from launcher.errors import RunDirectoryUnusableError
from launcher.plan.planner import Plan
from launcher.recipe.dump import recipe_to_yaml
from launcher.rundir.failure import FailureRecord, read_failures
from launcher.rundir.layout import RunDirectory
from launcher.rundir.status import RunStatus

Row = Mapping[str, float | None]
Point = tuple[float, float | None]

STEP = "train/global_step"

_LARGEST = 1e150  # sums and products of smaller numbers stay finite
_MOST_UPDATES = 2**53  # up to here a float tells one update from the next


@dataclass(frozen=True)
class RunRecord:
    """Everything that a report says of a run.

    Attributes:
        run_id: name of the run directory.
        plan: what was decided before the run.
        recipe: the resolved recipe, as YAML.
        rows: metrics by name, one row per update, in order; each has `train/global_step`, None where not finite.
        status: how the run stands; None if it has not said so yet.
        cause: what the rank that failed first left behind, if it could.
        unreadable: lines of metrics.jsonl that are not a row, such as one that was cut off.
    """

    run_id: str
    plan: Plan
    recipe: str
    rows: tuple[Row, ...]
    status: RunStatus | None = None
    cause: FailureRecord | None = None
    unreadable: int = 0

    def column(self, metric: str) -> list[Point]:
        """(update, value) of every row that has the metric; the value is None where it is not finite."""
        return [(update_of(row), row[metric]) for row in self.rows if metric in row]

    def values(self, metric: str) -> list[float]:
        """The known values of a metric, in order."""
        return [value for _, value in self.column(metric) if value is not None]

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of all metrics."""
        return frozenset().union(*self.rows)

    def metrics(self, prefix: str) -> list[str]:
        """Names of the metrics that begin with a prefix, sorted."""
        return sorted(name for name in self.names if name.startswith(prefix))

    @property
    def span(self) -> tuple[float, float]:
        """First and last update that has a row; 1 and 1 before the first."""
        return (update_of(self.rows[0]), update_of(self.rows[-1])) if self.rows else (1.0, 1.0)

    @property
    def updates(self) -> int:
        """Updates made. Rows and status are written one after the other: the larger number is the later one."""
        logged = int(update_of(self.rows[-1])) if self.rows else 0
        return max(logged, self.status.update if self.status else 0)

    @property
    def samples_seen(self) -> int:
        """Samples consumed."""
        logged = max(self.values("train/samples_seen"), default=0)
        return max(int(logged), self.status.samples_seen if self.status else 0)


def update_of(row: Row) -> float:
    """The update that a row tells of, from 1."""
    return row[STEP] or 0.0


def read_run(run: RunDirectory) -> RunRecord:
    """Read a run directory.

    Raises:
        RunDirectoryUnusableError: it holds no plan, or one that this version cannot read.
    """
    plan = _plan(run)
    rows, unreadable = _rows(run.metrics)
    status = _status(run.status)
    return RunRecord(
        run_id=run.path.resolve().name,
        plan=plan,
        recipe=_text(run.recipe) or recipe_to_yaml(plan.recipe),
        rows=rows,
        status=status,
        cause=_cause(run, status),
        unreadable=unreadable,
    )


def _plan(run: RunDirectory) -> Plan:
    written = _text(run.plan)
    if not written:
        raise RunDirectoryUnusableError(
            f"{run.path} has no plan.json, so it is not the directory of a run. Name one that `launcher run` made."
        )
    try:
        return Plan.model_validate_json(written)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise RunDirectoryUnusableError(
            f"{run.plan} cannot be read: {key}: {first['msg']}. "
            "Make the report with the version of launcher that ran it."
        ) from None


def _rows(metrics: Path) -> tuple[tuple[Row, ...], int]:
    """The rows of a metrics file, and how many lines are none."""
    if not metrics.is_file():
        return (), 0
    with metrics.open(encoding="utf-8", errors="replace") as file:
        parsed = [_row(line) for line in file if line.strip()]
    found = [row for row in parsed if row is not None]
    return tuple(_last_attempt(found)), len(parsed) - len(found)


def _row(line: str) -> Row | None:
    try:
        loaded = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(loaded, dict):
        return None
    row = {name: _finite(value) for name, value in loaded.items() if value is None or _is_number(value)}
    return row if 1 <= (row.get(STEP) or 0) <= _MOST_UPDATES else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finite(value: float | None) -> float | None:
    return value if value is not None and abs(value) < _LARGEST else None  # which no NaN is


def _last_attempt(rows: Iterable[Row]) -> list[Row]:
    """The rows in order of update. A run that was resumed goes back: what it did again replaces what was there."""
    kept: list[Row] = []
    for row in rows:
        while kept and update_of(kept[-1]) >= update_of(row):
            kept.pop()
        kept.append(row)
    return kept


def _status(path: Path) -> RunStatus | None:
    try:
        return TypeAdapter(RunStatus).validate_json(_text(path))
    except ValidationError:
        return None


def _cause(run: RunDirectory, status: RunStatus | None) -> FailureRecord | None:
    """The record of the rank that the status names; without a name, the first failure that is on record."""
    if status is None or status.state != "failed":
        return None
    try:
        failures = read_failures(run)
    except (OSError, ValueError, TypeError, KeyError):  # half a record is no record
        return None
    if status.failure is None:
        first = failures.first()
        return first if isinstance(first, FailureRecord) else None
    rank = status.failure.rank
    return next((record for record in failures.records if record.rank == rank), None)


def _text(path: Path) -> str:
    """The text of a file; empty if there is none."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
