"""The network of a recipe, measured by its own ranks through the launch that its runs have."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console

from launcher.cli.output import LastingOutput
from launcher.cli.prove_here import Steps
from launcher.cli.request import Request, read_request
from launcher.cli.watched import say_cause, watched
from launcher.doctor.finding import Finding, ok, warning
from launcher.errors import ExitCode, Mistake, RequestError
from launcher.launch.build import build_launch, numbered
from launcher.launch.torchrun import Meeting
from launcher.plan.network import NetworkCost, bus_bandwidth
from launcher.recipe.node_range import NodeRange
from launcher.rundir.generation import take_over
from launcher.rundir.lock import held
from launcher.rundir.network import MEASURE, STEP_MARK, NetworkMeasured
from launcher.runners.new_run import create_run_directory, fresh_id
from launcher.runners.supervise import listening
from launcher.runners.watch import Limits
from launcher.words import count, size

_ENDPOINT = re.compile(r"(?P<host>[^:\s]+|\[[0-9a-fA-F:]+\]):(?P<port>[0-9]{1,5})")
_NAME = "doctor"
_MUCH = 0.5  # the share of an update's time from which on the network deserves a warning


@dataclass(frozen=True)
class Together:
    """The machines that measure together.

    Attributes:
        nodes: how many.
        rank: this one's number.
        endpoint: where they meet; empty for one alone.
    """

    nodes: int = 1
    rank: int = 0
    endpoint: str = ""

    @staticmethod
    def of(nodes: int, rank: int, endpoint: str | None) -> Together:
        """From the command line.

        Raises:
            RequestError: the numbers do not go together, or the machines have nowhere to meet.
        """
        mistakes = []
        if rank >= nodes:
            mistakes.append(Mistake("--node-rank", f"is {rank}, and the machines are numbered from 0 to {nodes - 1}",
                                    "Give each its own number, or more --nodes"))  # fmt: skip
        if nodes > 1 and not _ENDPOINT.fullmatch(endpoint or ""):
            said = "is missing" if endpoint is None else f"cannot be {endpoint!r}"
            mistakes.append(Mistake("--rendezvous", said, "Write the name of number 0 and a port: host:29400"))
        if mistakes:
            raise RequestError(mistakes)
        return Together(nodes, rank, endpoint or "")

    @property
    def meeting(self) -> Meeting | None:
        """How torchrun finds the others."""
        if self.nodes == 1:
            return None
        return Meeting(self.endpoint, _NAME, NodeRange(self.nodes, self.nodes), host=self.rank == 0)


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
            cure = f"{engine} reduces in every micro-step, and no K hides that: take an engine that reduces once"
            return [warning("network", said, cure) if cost.share > _MUCH else ok("network", said)]
        if cost.share > _MUCH:
            cure = f"It is hidden from K = {count(cost.hidden_from)} on: batch.global={self.batch_of(cost.hidden_from)}"
            return [warning("network", said, cure)]
        return [ok("network", said)]


def read_measurable(recipe: Path, overrides: Sequence[str], together: Together) -> Request:
    """A recipe whose network can be measured.

    Args:
        recipe: the recipe file.
        overrides: `key.path=value`.
        together: the machines.

    Raises:
        RequestError: the recipe is wrong, or cannot be measured so.
    """
    several = [f"launch.nodes={together.nodes}", "launch.method=torchrun"] if together.nodes > 1 else []
    request = read_request(recipe, [*overrides, *several])
    plan = request.plan
    mistakes = []
    if plan.recipe.script is not None:
        mistakes.append(Mistake("script", "a script has a model of its own, which cannot be timed", "Write a task"))
    if plan.recipe.batch.micro == "auto":
        mistakes.append(Mistake("batch.micro", "auto is worked out by a run, and one size is timed", "Give a number"))
    if together.nodes == 1 and (plan.topology.nodes > 1 or plan.recipe.launch.elastic):
        cure = "On each machine give --nodes, --node-rank and --rendezvous, or set launch.nodes=1"
        mistakes.append(Mistake("launch.nodes", f"is {plan.recipe.launch.nodes}, and this is one machine", cure))
    if mistakes:
        raise RequestError(mistakes).located(request.loaded.marks)
    return request


def measure(request: Request, runs: Path, together: Together) -> Measured | ExitCode:
    """Measure with the recipe's ranks; where they fail or are stopped, why has been said.

    Args:
        request: the recipe with its plan.
        runs: the folder of all runs; what the ranks have written there stays if they fail.
        together: the machines.

    Returns:
        What was measured, or the exit code that says why it was not.
    """
    plan = request.plan
    run = create_run_directory(runs, fresh_id(f"{plan.recipe.name}-{_NAME}", datetime.now()), fresh=True)
    with listening() as signals, held(run):
        spec = build_launch(
            plan, run, request.machine, os.environ, worker_arguments=(MEASURE,), meeting=together.meeting
        )
        steps = Steps(Console(file=sys.stderr), STEP_MARK)
        outcome = watched(numbered(spec, take_over(run)), run, steps, signals, plan.recipe.launch.grace, Limits())
    if outcome.exit_code != ExitCode.DONE:
        say_cause(outcome)
        if not outcome.cause:
            print(f"launcher: {outcome.status.state}", file=LastingOutput(sys.stderr))
        return ExitCode(outcome.exit_code)
    found = NetworkMeasured.read(run)
    shutil.rmtree(run.path, ignore_errors=True)
    whole = found.message_seconds or 0.0
    scale = found.bytes_per_update / found.message_bytes if found.message_bytes else 0.0
    reduces = plan.recipe.parallel.abilities.reduces
    every = reduces == "micro-step" or (reduces == "choice" and not plan.recipe.parallel.fsdp.defer_reduction)
    return Measured(
        request, found, NetworkCost(found.micro_seconds, plan.batch.accumulation, whole * scale, every_step=every)
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
    if cost.hidden_from is not None and cost.small_from is not None:
        hidden, small = cost.hidden_from, cost.small_from
        lines += [
            (
                "hidden from",
                f"K = {count(hidden)}",
                f"computing takes as long: batch.global={measured.batch_of(hidden)}",
            ),
            ("below 10 %", f"K = {count(small)}", f"of an update: batch.global={measured.batch_of(small)}"),
        ]
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
