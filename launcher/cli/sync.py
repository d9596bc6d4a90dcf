"""`launcher sync`: W&B brought up to date with a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def sync(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of the run.", show_default=False)],
) -> None:
    """Upload to W&B the rows of a run that it has not, from offline and interrupted launches."""
    import os
    import subprocess
    import sys

    from launcher.errors import Mistake, RequestError
    from launcher.linux import end_with_parent
    from launcher.rundir.layout import RunDirectory
    from launcher.rundir.lock import held

    directory = RunDirectory(run.absolute())
    if not directory.plan.is_file():
        raise RequestError([Mistake("", "this is not the directory of a run: it has no plan.json", where=str(run))])
    if not directory.metrics.is_file():
        raise RequestError([Mistake("", "this run has no rows to upload: it has no metrics.jsonl", where=str(run))])
    with held(directory):
        done = subprocess.run(
            [sys.executable, "-m", "launcher.worker.upload", str(directory.path)],
            env={**os.environ, "WANDB_ERROR_REPORTING": "false"},
            preexec_fn=end_with_parent,
            check=False,
        )
    raise typer.Exit(done.returncode if done.returncode >= 0 else 128 - done.returncode)
