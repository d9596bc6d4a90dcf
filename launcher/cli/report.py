"""`launcher report`: a run as a page with pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of the run.", show_default=False)],
) -> None:
    """Write the report page of a run."""
    from launcher.errors import Mistake, RequestError
    from launcher.report.write import write_report
    from launcher.rundir.layout import RunDirectory

    directory = RunDirectory(run)
    if not directory.plan.is_file():
        raise RequestError([Mistake("", "this is not the directory of a run: it has no plan.json", where=str(run))])
    typer.echo(write_report(directory))
