"""The table of faults, made by the tests that inject them.

A test says which row it shows by `@pytest.mark.fault(Kind.X, "what goes wrong", by="how it is injected",
outcome="what happens then")`, and by the fixture `recovered` how many seconds the recovery took.
`--fault-table FILE` writes the table. What each test has shown is kept beside it, as JSON, so that to run some of the
tests again renews their rows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from pathlib import Path

import pytest
from pydantic import TypeAdapter

_SECONDS = "seconds to recover"
_INTRODUCTION = """\
# Faults

What was done to runs, and what came of it. `make faults` does it all again and writes this table; each row is one test
or several, which compare the run with one that nothing was done to. Seconds are from the fault to the first update
after it or to the end of the command, the longest of all tests of the row; the start of Python and torch is most of it.
"""


class Kind(Enum):
    """What a fault hits, in the order of the table."""

    PROCESS = "Processes that die"
    HANG = "Processes that hang"
    SIGNAL = "Signals"
    WORLD = "Ranks and nodes that come and go"
    HOST = "Hosts and their links"
    CHAOS = "Everything at once"
    DISK = "Disks and checkpoints"
    DIRECTORY = "Run directories"
    VALUE = "Values, data and user code"
    TRACKING = "W&B"
    REQUEST = "Recipes and names"
    SECRET = "Secrets"


@dataclass(frozen=True)
class Fault:
    """A row of the table.

    Attributes:
        kind: what it hits.
        what: what goes wrong.
        by: how it is injected.
        outcome: what happens then.
    """

    kind: Kind
    what: str
    by: str
    outcome: str


@dataclass(frozen=True)
class Shown:
    """A fault that a test has shown.

    Attributes:
        fault: the fault.
        result: `passed`, `failed` or `skipped`, as pytest calls it.
        reason: why it was skipped.
        seconds: until the run had recovered, where that was measured.
    """

    fault: Fault
    result: str
    reason: str
    seconds: float | None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-table", type=Path, metavar="FILE", help="write the table of faults to a file")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(kind, what, by, outcome): the test shows a row of the table of faults")
    if config.getoption("--fault-table"):
        config.pluginmanager.register(_Collector(config.getoption("--fault-table")))


@pytest.fixture
def recovered(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Takes the seconds that a recovery took, and where a test shows several rows, from which fault."""
    return lambda seconds, what="": record_property(_SECONDS + what, seconds)


Results = dict[str, list[Shown]]
"""Name of a test → what it has shown."""

_RESULTS = TypeAdapter(Results)


class _Collector:
    """Collects what tests have shown, and writes the table when all have ended.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept = path.with_suffix(".json")
        self._faults: dict[str, list[Fault]] = {}
        self._shown: Results = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            self._faults[item.nodeid] = [Fault(*mark.args, **mark.kwargs) for mark in item.iter_markers("fault")]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
        took = [(name, value) for name, value in report.user_properties if isinstance(value, float)]
        self._shown[report.nodeid] = [
            Shown(fault, report.outcome, reason, _longest(fault, took)) for fault in self._faults[report.nodeid]
        ]

    def pytest_sessionfinish(self) -> None:
        self._path.parent.mkdir(exist_ok=True)
        before = _RESULTS.validate_json(self._kept.read_bytes()) if self._kept.exists() else {}
        results = {test: shown for test, shown in sorted({**before, **self._shown}.items()) if shown}
        self._kept.write_bytes(_RESULTS.dump_json(results, indent=1) + b"\n")
        self._path.write_text(as_markdown(chain.from_iterable(results.values())), encoding="utf-8")


def _longest(fault: Fault, took: Iterable[tuple[str, float]]) -> float | None:
    """The seconds that a test has told of a fault, or of all that it shows."""
    return max((seconds for name, seconds in took if name in (_SECONDS, _SECONDS + fault.what)), default=None)


def as_markdown(shown: Iterable[Shown]) -> str:
    """The table, a part for each kind of fault."""
    rows: dict[Fault, list[Shown]] = {}
    for one in shown:
        rows.setdefault(one.fault, []).append(one)
    parts = [_INTRODUCTION]
    for kind in Kind:
        lines = [_row(fault, tests) for fault, tests in rows.items() if fault.kind == kind]
        if lines:
            header = "| fault | injected by | outcome | tests | seconds |\n| --- | --- | --- | ---: | ---: |"
            parts.append("\n".join([f"## {kind.value}", "", header, *lines]) + "\n")
    return "\n".join(parts)


def _row(fault: Fault, tests: list[Shown]) -> str:
    results = {test.result for test in tests}
    reasons = sorted({test.reason for test in tests if test.reason})
    outcome = fault.outcome
    if "failed" in results:
        outcome = f"**FAILED**: {outcome}"
    elif results == {"skipped"}:
        outcome = f"not run: {'; '.join(reasons)}"
    seconds = max((test.seconds for test in tests if test.seconds is not None), default=None)
    cells = (fault.what, fault.by, outcome, str(len(tests)), "" if seconds is None else f"{seconds:.1f}")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
