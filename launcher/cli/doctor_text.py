"""What `launcher doctor` has found, for people and for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from launcher.cli.doctor_network import Measured, described
from launcher.cli.output import LastingOutput
from launcher.doctor.finding import Finding
from launcher.words import plural

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}
_NAME = 15  # columns


def print_finding(console: Console, finding: Finding) -> None:
    """One line, and below it the cure where there is one."""
    head = Text(f"{finding.level:<8} ", style=_STYLES[finding.level])
    console.print(head + Text(f"{finding.name:<{_NAME}} {finding.said}", style="default"))
    if finding.cure:
        console.print(Text(f"{'':<8} {'':<{_NAME}} {finding.cure}"))


def print_cost(console: Console, measured: Measured) -> None:
    """What the network costs the recipe, and what to make of it."""
    topology = measured.request.plan.topology
    world = f"{plural(topology.world_size, 'rank')} on {topology.device}"
    console.print(Text(f"\n{measured.request.plan.recipe.name} on {world}"))
    lines = described(measured)
    width = max(len(value) for _, value, _ in lines)
    for name, value, what in lines:
        console.print(Text(f"  {name:<{_NAME}} {value:>{width}}  {what}"))
    for finding in measured.findings:
        print_finding(console, finding)


def print_json(findings: Sequence[Finding], measured: Measured | None) -> None:
    """Everything as one JSON object."""
    found: dict[str, object] = {"findings": [finding.as_json() for finding in findings], "network": None}
    if measured is not None:
        cost = measured.cost
        found["network"] = {
            **measured.network.model_dump(),
            "world_size": measured.request.plan.topology.world_size,
            "accumulation": cost.accumulation,
            "bandwidth_bits": measured.bandwidth,
            "computing": cost.computing,
            "communication": cost.communication,
            "share": cost.share,
            "balanced_accumulation": cost.balanced,
            "hidden_from": cost.hidden_from,
            "small_from": cost.small_from,
        }
    print(json.dumps(found, indent=2), file=LastingOutput(sys.stdout))
