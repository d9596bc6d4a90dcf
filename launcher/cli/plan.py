"""`launcher plan`: the batch arithmetic of a recipe, to be checked by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from launcher.cli.arguments import OverridesArgument, RecipeArgument


def plan(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    world: Annotated[
        list[int] | None,
        typer.Option("--world", metavar="N ...", min=1, help="Compare these numbers of ranks.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show the batch arithmetic of a recipe.

    Who takes which samples, learning rate, updates, bytes reduced, and the command.
    """
    import json

    from launcher.cli.plan_json import plan_as_json
    from launcher.cli.plan_text import print_plan
    from launcher.cli.preview import preview
    from launcher.cli.request import read_request
    from launcher.plan.editions import compare_editions
    from launcher.plan.worlds import compare_worlds, possible_worlds

    request = read_request(recipe, overrides or [])
    plan = request.plan
    worlds = compare_worlds(plan.recipe, world or possible_worlds(plan.recipe, plan.topology))
    can_overlap = not plan.recipe.batch.halves and (plan.exact_cost is None or plan.exact_cost.can_overlap)
    editions = compare_editions(plan.recipe.multitask, plan.topology.world_size, request.written, can_overlap)
    spec = preview(request)
    if as_json:
        typer.echo(json.dumps(plan_as_json(plan, worlds, editions, spec), indent=2))
    else:
        print_plan(plan, worlds, editions, spec)
