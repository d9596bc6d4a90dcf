"""The call of SkyPilot's own command: what it is told is worked out elsewhere."""

from __future__ import annotations

import subprocess

from launcher.errors import ExitCode, LauncherError
from launcher.launch.submission import Submission
from launcher.rundir.layout import write_atomically


class SkyPilotError(LauncherError):
    """SkyPilot is not there, or does not take the job; it has said why."""

    exit_code = ExitCode.REQUEST


def submit(job: Submission) -> None:
    """Write the files of a job and submit it, with SkyPilot's own words on the terminal.

    Args:
        job: the job, the object that a dry run prints.

    Raises:
        SkyPilotError: SkyPilot is not there, or does not take it.
    """
    for path, text in job.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text, lasting=True)
    try:
        done = subprocess.run(job.argv, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise SkyPilotError("SkyPilot is not installed here: there is no sky. See docs.skypilot.co.") from None
    if done.returncode:
        raise SkyPilotError(f"sky has not taken the job: exit code {done.returncode}.")
