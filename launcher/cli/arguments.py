"""Arguments that several commands share. Light: `launcher --help` imports this and nothing of what it names."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Resume(str, Enum):
    """Whether to go on with a run that has begun."""

    AUTO = "auto"
    NEVER = "never"


RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE ...]", help="Keys to set, such as batch.global=512.", show_default=False),
]
RunOrJobArgument = Annotated[
    str, typer.Argument(metavar="RUN|JOB", help="A run, by its id or folder, or its job.", show_default=False)
]
RunsOption = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder of all runs.")]
RunIdOption = Annotated[
    str | None, typer.Option("--run-id", metavar="ID", help="Name of the run's folder; default: name and time.")
]
ResumeOption = Annotated[
    Resume, typer.Option("--resume", help="auto goes on with the run of that id, or the newest that is not done.")
]
