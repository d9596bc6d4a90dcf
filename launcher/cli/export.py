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
    import shutil

    from launcher.errors import Mistake, RequestError
    from launcher.rundir.checkpoints import Checkpoints
    from launcher.rundir.layout import RunDirectory

    directory = RunDirectory(run)
    checkpoint = Checkpoints(directory, lambda said: typer.echo(said, err=True)).look()
    if checkpoint is None:
        raise RequestError([Mistake("", "this run has no checkpoint to export", where=str(run))])
    target = to or directory.path / "model.safetensors"
    unfinished = target.with_name(f".{target.name}.unfinished")
    try:
        shutil.copyfile(checkpoint.folder / "model.safetensors", unfinished)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    typer.echo(f"{target}: the model after update {checkpoint.update:,}")
