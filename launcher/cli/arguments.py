"""Arguments that several commands share. Light: `launcher --help` imports this and nothing of what it names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE ...]", help="Keys to set, such as batch.global=512.", show_default=False),
]
RunOrJobArgument = Annotated[
    str, typer.Argument(metavar="RUN|JOB", help="A run, by its id or folder, or its job.", show_default=False)
]
RunsOption = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder of all runs.")]
