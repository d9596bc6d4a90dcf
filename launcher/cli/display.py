"""What the terminal shows while a run goes on: a bar where there is a terminal, lines where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from launcher.plan.planner import Plan

LINE_EVERY = 5.0  # seconds between lines where there is no terminal


class Display:
    """Shows the rows and lines of a run as they come.

    Attributes:
        last_evaluation: name → value of the last evaluation.
        noise_scale: the gradient noise scale as it was measured last, in samples; None if it was not.

    Args:
        console: where to print.
        updates: updates of the run, if known.
        progress: the bar, or None for lines.
    """

    def __init__(self, console: Console, updates: int | None, progress: Progress | None) -> None:
        self._console = console
        self._updates = updates
        self._progress = progress
        self._task = progress.add_task("starting", total=updates, numbers="") if progress else None
        self._line_at = 0.0
        self._row: Mapping[str, float | None] = {}
        self._unshown = False
        self.last_evaluation: dict[str, float] = {}
        self.noise_scale: float | None = None

    def __enter__(self) -> Display:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show_row(last=True)
        if self._progress:
            self._progress.stop()

    def row(self, row: Mapping[str, float | None]) -> None:
        """Keep an update's metrics for the next tick; show an evaluation at once."""
        self._row, self._unshown = row, True
        noise_scale = row.get("train/gradient_noise_scale")
        self.noise_scale = self.noise_scale if noise_scale is None else noise_scale
        evaluation = {name: value for name, value in row.items() if name.startswith("eval/") and value is not None}
        if evaluation:
            self.last_evaluation = evaluation
            self._show_row(last=True)

    def line(self, text: str) -> None:
        """Show what rank 0 printed."""
        self._console.print(Text.from_ansi(text), soft_wrap=True)

    def tick(self) -> None:
        """Show the newest metrics, if it is time."""
        self._show_row(last=False)

    def stopping(self, signal_name: str, hurries: bool) -> None:
        """Say that the run was asked to stop."""
        again = "; once more to end now" if hurries else ""
        self._console.print(f"{signal_name}: ending at the next update{again}")

    def _show_row(self, last: bool) -> None:
        if not self._unshown:
            return
        numbers = row_in_words(self._row)
        if self._progress and self._task is not None:
            done = self._row["train/global_step"]
            self._progress.update(self._task, description="training", completed=done, numbers=numbers)
        elif last or time.monotonic() - self._line_at >= LINE_EVERY:
            self._line_at = time.monotonic()
            of = f"/{self._updates:,}" if self._updates else ""
            self._console.print(f"update {self._row['train/global_step']:,}{of}  {numbers}", soft_wrap=True)
        else:
            return
        self._unshown = False


def row_in_words(row: Mapping[str, float | None]) -> str:
    """The metrics that people watch, on one line; an update that was skipped has no loss."""
    shown: list[tuple[str, str, Callable[[float], str]]] = [
        ("loss", "train/loss", "{:.4f}".format),
        ("lr", "train/learning_rate", "{:.2e}".format),
        ("batch", "batch/global_samples", "{:,.0f}".format),
        ("samples/s", "throughput/samples_per_sec", "{:,.0f}".format),
    ]
    shown += [(name, name, "{:.4f}".format) for name in row if name.startswith("eval/")]
    return "  ".join(f"{label} {_number(row[name], form)}" for label, name, form in shown if name in row)


def _number(value: float | None, form: Callable[[float], str]) -> str:
    return "not finite" if value is None else form(value)


def bar_display(plan: Plan, console: Console) -> Display:
    """A progress bar below the lines that rank 0 prints."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(compact=True),
    )
    return Display(console, plan.length.updates, Progress(*columns, console=console))


def line_display(plan: Plan, console: Console) -> Display:
    """A line now and then, and at every evaluation."""
    return Display(console, plan.length.updates, None)
