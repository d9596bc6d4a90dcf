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
    nodes: Annotated[int, typer.Option("--nodes", metavar="N", min=1, help="Machines; start this on each.")] = 1,
    node_rank: Annotated[int, typer.Option("--node-rank", metavar="R", min=0, help="This one's number, from 0.")] = 0,
    rendezvous: Annotated[
        str | None, typer.Option("--rendezvous", metavar="HOST:PORT", help="Where they meet: number 0, a free port.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
    runs: RunsOption = Path("runs"),
) -> None:
    """Examine this machine; with a recipe, measure its network too. Exit code 0: nothing is wrong; 3: something is.

    KEY=VALUE sets keys of the recipe.
    """
    import os
    from contextlib import nullcontext

    from launcher.cli.doctor_network import Together, measure, read_measurable
    from launcher.cli.doctor_text import print_cost, print_finding, print_json
    from launcher.cli.output import lasting_console
    from launcher.doctor.examine import examine
    from launcher.errors import ExitCode, Mistake, RequestError

    if recipe is None and (overrides or nodes > 1 or rendezvous):
        raise RequestError([Mistake("--recipe", "is missing: what is measured, is so for a recipe", "Name one")])
    together = Together.of(nodes, node_rank, rendezvous)
    request = None if recipe is None else read_measurable(recipe, overrides or [], together)
    console, findings = lasting_console(soft_wrap=True), []
    with nullcontext() if as_json else console.status("looking at this machine"):
        for finding in examine(os.environ, Path.home(), runs):
            findings.append(finding)
            if not as_json:
                print_finding(console, finding)
    code = ExitCode.DONE
    measured = None if request is None else measure(request, runs, together)
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
