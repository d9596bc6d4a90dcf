"""A proof on this machine from its launch to its verdict, as the user sees it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

from launcher.cli.output import LastingOutput, lasting_console
from launcher.cli.proof_text import print_proof
from launcher.cli.request import Request
from launcher.cli.watched import say_cause, watched
from launcher.errors import ExitCode
from launcher.launch.build import build_launch, numbered
from launcher.rundir.generation import take_over
from launcher.rundir.lock import held
from launcher.rundir.proof import PROVE, STEP_MARK, Proof
from launcher.runners.new_run import create_run_directory, fresh_id
from launcher.runners.supervise import listening
from launcher.runners.watch import Limits


def prove_here(request: Request, runs: Path, as_json: bool) -> int:
    """Prove a request in a run directory of its own; the exit code.

    Args:
        request: the recipe with its plan.
        runs: the folder of all runs.
        as_json: print the proof as JSON.
    """
    run = create_run_directory(runs, fresh_id(f"{request.plan.recipe.name}-{PROVE}", datetime.now()), fresh=True)
    with listening() as signals, held(run):
        spec = build_launch(request.plan, run, request.machine, os.environ, worker_arguments=(PROVE,))
        outcome = watched(
            numbered(spec, take_over(run)),
            run,
            Steps(Console(file=sys.stderr), STEP_MARK),
            signals,
            request.plan.recipe.launch.grace,
            Limits(),
        )
    if outcome.exit_code != ExitCode.DONE:
        say_cause(outcome)
        if not outcome.cause:
            print(f"launcher: {outcome.status.state}", file=LastingOutput(sys.stderr))
        return outcome.exit_code
    proof = Proof.read(run)
    if as_json:
        print(proof.model_dump_json(indent=2), file=LastingOutput(sys.stdout))
    else:
        print_proof(lasting_console(), proof, run)
    return ExitCode.DONE if proof.equivalent else ExitCode.NOT_EQUIVALENT


class Steps:
    """Shows what ranks are doing that make no updates, on a terminal; elsewhere nothing.

    Args:
        console: the terminal.
        mark: what a line of rank 0 begins with that says it.
    """

    def __init__(self, console: Console, mark: str) -> None:
        self._mark = mark
        self._status = console.status(Text("starting the ranks"))

    def __enter__(self) -> Steps:
        self._status.start()
        return self

    def __exit__(self, *leaving: object) -> None:
        self._status.stop()

    def row(self, row: Mapping[str, float | None]) -> None:
        """There are no updates."""

    def line(self, text: str) -> None:
        """Show the step that rank 0 is in; what the user's own code prints is in its log."""
        if text.startswith(self._mark):
            self._status.update(Text(text.removeprefix(self._mark)))

    def tick(self) -> None:
        """The status moves by itself."""

    def stopping(self, signal_name: str, hurries: bool) -> None:
        """Say that they were asked to stop."""
        self._status.update(f"{signal_name}: ending")
