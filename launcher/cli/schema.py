"""`launcher schema`: the JSON Schema of a recipe, for editors."""

from __future__ import annotations

import json

import typer


def schema() -> None:
    """Print the JSON Schema of a recipe, for editors."""
    from launcher.recipe.schema import recipe_json_schema

    typer.echo(json.dumps(recipe_json_schema(), indent=2))
