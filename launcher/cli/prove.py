"""`launcher prove`: the accumulated gradient beside that of one big batch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launcher.cli.arguments import OverridesArgument, RecipeArgument


def prove(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the proof as JSON.")] = False,
    runs: Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder of all runs.")] = Path("runs"),
) -> None:
    """Prove that accumulation gives the gradient of one big batch.

    Takes the first window of a recipe on its real ranks, and the same samples as one batch; names the cause where the
    two differ. Exit code 0: equivalent; 3: not.
    """
    from launcher.cli.prove_here import prove_here
    from launcher.cli.request import read_request
    from launcher.errors import Mistake, RequestError
    from launcher.recipe.engines import engines_that

    request = read_request(recipe, overrides or [])
    if request.plan.recipe.script is not None:
        mistake = Mistake("script", "a script has a loop of its own, which cannot be proved", "Write a task instead")
        raise RequestError([mistake]).located(request.loaded.marks)
    if request.plan.recipe.batch.micro == "auto":
        mistake = Mistake(
            "batch.micro", "auto is worked out by a run, and a proof takes what is given", "Give a number"
        )
        raise RequestError([mistake]).located(request.loaded.marks)
    parallel = request.plan.recipe.parallel
    if not parallel.abilities.proves:
        mistake = Mistake(
            "parallel.engine",
            f"{parallel.engine} does not show the gradients that a proof compares",
            f"Prove with parallel.engine={engines_that(lambda can: can.proves)}: the window is the same",
        )
        raise RequestError([mistake]).located(request.loaded.marks)
    if request.plan.topology.nodes > 1:
        raise request.several_machines()
    raise typer.Exit(prove_here(request, runs, as_json))
