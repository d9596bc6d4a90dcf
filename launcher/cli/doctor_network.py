"""The network of a recipe, measured by its own ranks through the launch that its runs have."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console

from launcher.cli.by_hand import request_by_hand
from launcher.cli.output import LastingOutput
from launcher.cli.prove_here import Steps
from launcher.cli.request import Request, read_request
from launcher.cli.watched import watched
from launcher.doctor.finding import Finding, ok, warning
from launcher.errors import ExitCode, Mistake, RequestError
from launcher.launch.build import build_launch, numbered
from launcher.plan.changes import recipe_mark
from launcher.plan.network import NetworkCost, bus_bandwidth
from launcher.plan.planner import Plan
from launcher.recipe.load import load_recipe
from launcher.rundir.generation import take_over
from launcher.rundir.layout import RunDirectory
from launcher.rundir.lock import held
from launcher.rundir.network import MEASURE, STEP_MARK, NetworkMeasured
from launcher.runners.gathering import gathered
from launcher.runners.new_run import create_run_directory, fresh_id
from launcher.runners.outcome import Outcome
from launcher.runners.place import Place, meeting_at
from launcher.runners.supervise import Signals, listening
from launcher.runners.watch import Limits
from launcher.words import count, size

_NAME = "doctor"
_LINES = 20  # of a log that are shown where ranks fail
_MUCH = 0.5  # the share of an update's time from which on the network deserves a warning


@dataclass(frozen=True)
class Measured:
    """What the network costs a recipe.

    Attributes:
        request: the recipe with its plan.
        network: what was measured.
        cost: what that comes to for an update.
    """

    request: Request
    network: NetworkMeasured
    cost: NetworkCost

    @property
    def bandwidth(self) -> float:
        """Bits per second that each rank sends in an all-reduce; 0 for one rank."""
        found = self.network
        if not found.message_bytes or not found.message_seconds:
            return 0.0
        return bus_bandwidth(found.message_bytes, found.message_seconds, self.request.plan.topology.world_size)

    def batch_of(self, accumulation: int) -> int:
        """The global batch that has so many micro-steps per update on each rank."""
        return accumulation * self.network.micro_samples * self.request.plan.topology.world_size

    @property
    def findings(self) -> list[Finding]:
        """What to make of it."""
        cost = self.cost
        if not cost.communication:
            return [ok("network", "one rank: nothing crosses it")]
        said = f"{cost.share:.0%} of an update at K = {count(cost.accumulation)}, where nothing overlaps"
        if cost.hidden_from is None:
            engine = self.request.plan.recipe.parallel.engine
            cure = (
                f"{engine} is at the network in every micro-step, for longer than that computes, and no K hides it: "
                "take a larger batch.micro, or an engine that reduces once"
            )
            return [warning("network", said, cure) if cost.share > _MUCH else ok("network", said)]
        if cost.share > _MUCH:
            cure = f"It is hidden from K = {count(cost.hidden_from)} on: batch.global={self.batch_of(cost.hidden_from)}"
            return [warning("network", said, cure)]
        return [ok("network", said)]


def read_measurable(recipe: Path, overrides: Sequence[str], place: Place | None) -> Request:
    """A recipe whose network can be measured.

    Args:
        recipe: the recipe file.
        overrides: `key.path=value`.
        place: of this machine, where there are several.

    Raises:
        RequestError: the recipe is wrong, or cannot be measured so.
    """
    if place is None:
        request = read_request(recipe, overrides)
    else:
        launch = load_recipe(recipe, overrides).recipe.launch
        several = [f"launch.nodes={place.nodes}"] if launch.elastic else []  # so many of them are measured
        request = request_by_hand(recipe, [*overrides, *several], place, os.environ)
    plan = request.plan
    mistakes = []
    if plan.recipe.script is not None:
        mistakes.append(Mistake("script", "a script has a model of its own, which cannot be timed", "Write a task"))
    if plan.recipe.batch.micro == "auto":
        mistakes.append(Mistake("batch.micro", "auto is worked out by a run, and one size is timed", "Give a number"))
    if place is None and (plan.topology.nodes > 1 or plan.recipe.launch.elastic):
        cure = "On each machine give --nodes, --node-rank and --rendezvous, or set launch.nodes=1"
        mistakes.append(Mistake("launch.nodes", f"is {plan.recipe.launch.nodes}, and this is one machine", cure))
    if place is not None and plan.recipe.launch.method == "ray":
        wrong = "ray places the ranks by itself, and machines that are started by hand have their places"
        mistakes.append(Mistake("launch.method", wrong, "Set launch.method=torchrun"))
    if mistakes:
        raise RequestError(mistakes).located(request.loaded.marks)
    return request


def measure(request: Request, runs: Path, place: Place | None) -> Measured | ExitCode:
    """Measure with the recipe's ranks; where they fail or are stopped, why has been said. Nothing stays in the folder.

    Args:
        request: the recipe with its plan.
        runs: the folder of all runs.
        place: of this machine, where there are several.

    Returns:
        What was measured, or the exit code that says why it was not.

    Raises:
        RequestError: the machines cannot meet there, or have other recipes.
        HostUnknownError: nobody knows the name of the first machine.
        MachineMissingError: another machine has not come.
    """
    recipe, several = request.plan.recipe, place if place is not None and place.nodes > 1 else None
    with listening() as signals:
        if several is not None and not _all_there(several, request.plan, signals):
            return ExitCode.INTERRUPTED
        with _passing_directory(runs, recipe.name) as run:
            outcome = _outcome(request, run, several, signals)
            if outcome.exit_code != ExitCode.DONE:
                _say_failure(outcome)
                return ExitCode(outcome.exit_code)
            found = NetworkMeasured.read(run)
    return Measured(request, found, _cost(request, found))


@contextmanager
def _passing_directory(runs: Path, name: str) -> Iterator[RunDirectory]:
    """A directory for the ranks, which goes again with the folders that were made for it."""
    made = [folder for folder in (runs, *runs.parents) if not folder.exists()]
    try:
        run = create_run_directory(runs, fresh_id(f"{name}-{_NAME}", datetime.now()), fresh=True)
        try:
            yield run
        finally:
            shutil.rmtree(run.path, ignore_errors=True)
    finally:
        for folder in made:
            with suppress(OSError):  # it holds something of others, and stays
                folder.rmdir()


def _all_there(place: Place, plan: Plan, signals: Signals) -> bool:
    """Whether all machines have come with the same recipe; a signal may have come first."""

    def say(sentence: str) -> None:
        print(sentence, file=LastingOutput(sys.stderr), flush=True)

    patience = plan.recipe.parallel.timeout
    return place.reach(patience, signals, say) and gathered(
        place, patience, signals, say, "launcher doctor", recipe=_mark(plan)
    )


def _mark(plan: Plan) -> str:
    """A word that is the same where what is timed is."""
    recipe = plan.recipe
    timed = [
        recipe_mark(plan),
        plan.batch.micro,
        *(part.model_dump(mode="json") for part in (plan.topology, recipe.parallel)),
    ]
    return hashlib.sha256(json.dumps([*timed, recipe.launch.method], sort_keys=True).encode()).hexdigest()[:16]


def _outcome(request: Request, run: RunDirectory, place: Place | None, signals: Signals) -> Outcome:
    """The end of the ranks, which leave what they have measured in a directory."""
    plan = request.plan
    meeting = None
    if place is not None:
        machines = plan.recipe.launch.machines
        meeting = meeting_at(place.endpoint, _NAME, machines, leads=place.rank == 0, place=place)
    with held(run):
        spec = build_launch(plan, run, request.machine, os.environ, worker_arguments=(MEASURE,), meeting=meeting)
        steps = Steps(Console(file=sys.stderr), STEP_MARK)
        return watched(numbered(spec, take_over(run)), run, steps, signals, plan.recipe.launch.grace, Limits())


def _say_failure(outcome: Outcome) -> None:
    """Say why nothing was measured, with the end of the log that tells more: the log goes."""
    cause, failure = outcome.cause or outcome.status.state, outcome.status.failure
    lines = list[str]()
    if failure is not None:
        cause = cause.removesuffix(f" Its log: {failure.log}")
        with suppress(OSError):
            lines = Path(failure.log).read_text(encoding="utf-8", errors="replace").splitlines()
    end = ["The end of its log:", *(f"  {line}" for line in lines[-_LINES:])] if lines else []
    print("\n".join([f"launcher: {cause}", *end]), file=LastingOutput(sys.stderr))


def _cost(request: Request, found: NetworkMeasured) -> NetworkCost:
    plan = request.plan
    of_a_byte = 0.0
    if found.message_bytes and found.message_seconds:
        of_a_byte = found.message_seconds / found.message_bytes
    return NetworkCost(
        found.micro_seconds, plan.batch.accumulation, found.once_bytes * of_a_byte, found.each_bytes * of_a_byte
    )


def described(measured: Measured) -> list[tuple[str, str, str]]:
    """What was measured, as lines of a name, a number and what that is."""
    found, cost = measured.network, measured.cost
    lines = [
        ("micro-step", _time(found.micro_seconds), f"forward and backward of {found.micro_samples:,} samples"),
        ("computing", _time(cost.computing), f"per update = {count(cost.accumulation)} micro-steps (K)"),
    ]
    if found.latency is None or found.message_seconds is None or found.message_bytes is None:
        return lines
    lines += [
        ("latency", _time(found.latency), "all-reduce of 4 bytes"),
        ("bandwidth", _rate(measured.bandwidth),
         f"sent by each rank, all-reduce of {size(found.message_bytes)} in {_time(found.message_seconds)}"),
        ("bytes", size(found.bytes_per_update), f"per update, {count(found.parameters)} trainable parameters"),
        ("communication", _time(cost.communication), f"per update: {cost.share:.0%} of it, where nothing overlaps"),
    ]  # fmt: skip
    if cost.hidden_from is not None:
        hidden, batch = cost.hidden_from, measured.batch_of(cost.hidden_from)
        lines.append(("hidden from", f"K = {count(hidden)}", f"computing takes as long: batch.global={batch}"))
    if cost.small_from is not None:
        small, batch = cost.small_from, measured.batch_of(cost.small_from)
        lines.append(("below 10 %", f"K = {count(small)}", f"of an update: batch.global={batch}"))
    return lines


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def _rate(bits: float) -> str:
    for unit, scale in (("Gbit/s", 1e9), ("Mbit/s", 1e6)):
        if bits >= scale:
            return f"{bits / scale:.3g} {unit}"
    return f"{bits / 1e3:.3g} kbit/s"
