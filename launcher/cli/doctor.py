"""`launcher doctor`: what this machine has, what is missing, what will be slow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launcher.cli.arguments import OverridesArgument, RunsOption


def doctor(
    overrides: OverridesArgument = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", metavar="RECIPE", help="Measure the network that this recipe will have.")
    ] = None,
    nodes: Annotated[
        int | None, typer.Option("--nodes", metavar="N", help="Machines that measure together; start this on each.")
    ] = None,
    node_rank: Annotated[
        int | None, typer.Option("--node-rank", metavar="R", help="Which of them this is, from 0.")
    ] = None,
    rendezvous: Annotated[
        str | None, typer.Option("--rendezvous", metavar="HOST:PORT", help="Machine 0, and a port there that is free.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
    runs: RunsOption = Path("runs"),
) -> None:
    """Examine this machine; with a recipe, measure its network too. Exit code 0: nothing is wrong; 3: something is.

    KEY=VALUE sets keys of the recipe.
    """
    import os
    from contextlib import nullcontext

    from launcher.cli.doctor_network import measure, read_measurable
    from launcher.cli.doctor_text import print_cost, print_finding, print_json
    from launcher.cli.output import lasting_console
    from launcher.doctor.examine import examine
    from launcher.errors import ExitCode, LauncherError, Mistake, RequestError
    from launcher.runners.place import place_by_hand

    place = place_by_hand(nodes, node_rank, rendezvous)
    if recipe is None and (overrides or place is not None):
        raise RequestError([Mistake("--recipe", "is missing: what is measured, is so for a recipe", "Name one")])
    request = None if recipe is None else read_measurable(recipe, overrides or [], place)
    console, findings = lasting_console(soft_wrap=True), []
    with nullcontext() if as_json else console.status("looking at this machine"):
        for finding in examine(os.environ, Path.home(), runs):
            findings.append(finding)
            if not as_json:
                print_finding(console, finding)
    code = ExitCode.DONE
    try:
        measured = None if request is None else measure(request, runs, place)
    except LauncherError:
        if as_json:
            print_json(findings, None)
        raise
    if isinstance(measured, ExitCode):
        code, measured = measured, None
    if measured is not None:
        findings += measured.findings
        if not as_json:
            print_cost(console, measured)
    if as_json:
        print_json(findings, measured)
    wrong = any(finding.level == "problem" for finding in findings)
    raise typer.Exit(code or (ExitCode.WORKER if wrong else ExitCode.DONE))
