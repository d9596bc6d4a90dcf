"""`launcher export`: the trained model of a run as a file for inference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of the run.", show_default=False)],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="Where to write it; default: model.safetensors in RUN.")
    ] = None,
) -> None:
    """Write the model of a run's last good checkpoint as a safetensors file."""
    from launcher.errors import Mistake, RequestError
    from launcher.rundir.checkpoints import Checkpoints, NoCheckpointError
    from launcher.rundir.exported import export_model
    from launcher.rundir.layout import RunDirectory
    from launcher.rundir.manifest import BadCheckpointError

    directory = RunDirectory(run)
    checkpoint = Checkpoints(directory, lambda said: typer.echo(said, err=True)).look()
    if checkpoint is None:
        raise RequestError([Mistake("", "this run has no checkpoint to export", where=str(run))])
    target = to or directory.path / "model.safetensors"
    try:
        export_model(checkpoint.folder, target)
    except BadCheckpointError as bad:  # it was good a moment ago
        raise NoCheckpointError(f"{checkpoint.folder} cannot be exported: {bad}.") from None
    typer.echo(f"{target}: the model after update {checkpoint.update:,}")
