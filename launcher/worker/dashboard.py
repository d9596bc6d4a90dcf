"""The process that `launcher dashboard` starts: W&B in a process of its own, which the command line never imports."""

from __future__ import annotations

import sys

from launcher.dashboard.panels import Dashboard
from launcher.errors import LauncherError
from launcher.trackers.wandb_session import tear_down
from launcher.trackers.wandb_workspace import save_report, save_workspace, workspace_spec

MADE = {"spec": workspace_spec, "workspace": save_workspace, "report": save_report}


def main() -> int:
    """Make what the argument names of the dashboard on standard input, and print it or its address; the exit code."""
    dashboard = Dashboard.model_validate_json(sys.stdin.read())
    try:
        print(MADE[sys.argv[1]](dashboard))
    except LauncherError as error:
        print(f"launcher: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        tear_down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
