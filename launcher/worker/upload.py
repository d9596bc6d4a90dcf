"""The process that `launcher sync` starts: W&B in a process of its own, which the command line never imports."""

from __future__ import annotations

import sys
from pathlib import Path

from launcher.errors import LauncherError
from launcher.plan.plan_file import read_plan
from launcher.rundir.layout import RunDirectory
from launcher.trackers.wandb_upload import upload


def main() -> int:
    """Upload the rows of the run whose directory is the argument; the exit code."""
    run = RunDirectory(Path(sys.argv[1]))
    try:
        upload(read_plan(run.plan), run, print)
    except LauncherError as error:
        print(f"launcher: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
