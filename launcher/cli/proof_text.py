"""A proof as text: the verdict first, then what it rests on."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from launcher.cli.run_here import shown_path
from launcher.rundir.layout import RunDirectory
from launcher.rundir.proof import Cause, Proof
from launcher.words import count, number, plural, sentence, size

_NOT_A_NUMBER = "not finite"


def print_proof(console: Console, proof: Proof, run: RunDirectory) -> None:
    """Print a proof.

    Args:
        console: where to.
        proof: the proof.
        run: the directory that holds it.
    """
    console.print(Text(verdict(proof), style="bold green" if proof.equivalent else "bold red"))
    for cause in proof.causes:
        _print_cause(console, cause)
    if not proof.equivalent and not proof.causes:
        console.print("No cause was found.")
    if proof.ruled_out:
        console.print(Text(f"\nRuled out: {'; '.join(proof.ruled_out)}."))
    console.print("\n[bold]Window[/bold]")
    console.print(_grid(window_lines(proof)))
    console.print("\n[bold]Parameters[/bold] that differ most")
    console.print(_parameters(proof))
    console.print("\n[bold]Losses[/bold] of the window")
    console.print(_losses(proof))
    for note in proof.notes:
        console.print(Text(f"\nnote: {note}"))
    console.print(Text(f"\nproof: {shown_path(run.proof)}"), soft_wrap=True)


def verdict(proof: Proof) -> str:
    """The verdict in one line."""
    if proof.equivalent:
        return f"equivalent: {proof.recipe} accumulates the gradient of one batch"
    names = {cause.kind: None for cause in proof.causes}
    because = f": {', '.join(names)}" if names else ""
    return f"not equivalent{because}"


def window_lines(proof: Proof) -> Iterator[tuple[str, str]]:
    """How the window was taken, and what came of it."""
    shape, reduced = proof.shape, proof.all_reduces
    fewest, most = min(shape.micro_steps), max(shape.micro_steps)
    steps = str(most) if fewest == most else f"{fewest} or {most}"
    yield "accumulated", f"{plural(shape.samples, 'sample')} on {plural(shape.world_size, 'rank')}, {steps} micro-steps"
    slices = "one batch" if shape.slices == 1 else f"{shape.slices} slices of {count(shape.slice_samples)} at most"
    yield "reference", f"the same samples as {slices} on one rank"
    limit = "above" if proof.error is None or proof.error > proof.tolerance else "below"
    found = _NOT_A_NUMBER if proof.error is None else f"{number(proof.error, 3)}, {limit} {number(proof.tolerance)}"
    yield "relative error", f"{found} in {proof.precision}"
    if proof.float32_error is not None:
        yield "", f"{number(proof.float32_error, 3)} in float32"
    if shape.world_size == 1:
        yield "all-reduces", "none: one rank has nobody to reduce with"
        return
    without = size(reduced.bytes_without_no_sync)
    yield "all-reduces", f"{plural(reduced.calls, 'call')} with {size(reduced.bytes)}"
    yield "planned", f"{size(reduced.planned_bytes)} per update ({without} without no_sync)"


def _print_cause(console: Console, cause: Cause) -> None:
    console.print(Text(f"\n{sentence(cause.finding[:1].upper() + cause.finding[1:])}"))
    lines = [("where", ", ".join(cause.places))] if cause.places else []
    lines += [("tested", sentence(cause.evidence))]
    errors = []
    if cause.error_with is not None:
        errors.append(f"{number(cause.error_with, 3)} with it")
    if cause.error_without is not None:
        errors.append(f"{number(cause.error_without, 3)} without it")
    lines += [("error", ", ".join(errors))] if errors else []
    console.print(_grid(iter([*lines, ("cure", sentence(cause.cure))])))


def _grid(lines: Iterator[tuple[str, str]]) -> Padding:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for label, text in lines:
        grid.add_row(label, Text(text))
    return Padding(grid, (0, 0, 0, 2), expand=False)


def _parameters(proof: Proof) -> Padding:
    table = _table("", "error", "share of all")
    for parameter in proof.worst_parameters:
        table.add_row(Text(parameter.name), _shown(parameter.error), _shown(parameter.share))
    return Padding(table, (0, 0, 0, 2), expand=False)


def _losses(proof: Proof) -> Padding:
    table = _table("", "accumulated", "one batch", "difference")
    for loss in proof.losses:
        values = (loss.accumulated, loss.one_batch)
        table.add_row(Text(loss.name), *(_shown(value, 8) for value in values), _shown(loss.difference))
    return Padding(table, (0, 0, 0, 2), expand=False)


def _table(*headers: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for header in headers:
        table.add_column(header, justify="right" if header else "left", overflow="fold")
    return table


def _shown(value: float | None, digits: int = 3) -> str:
    return _NOT_A_NUMBER if value is None else number(value, digits)
