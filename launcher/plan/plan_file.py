"""Reading the plan of a run that is there."""

from __future__ import annotations

from pathlib import Path

from launcher.errors import RunDirectoryUnusableError
from launcher.plan.planner import Plan


def read_plan(path: Path) -> Plan:
    """The plan that a file holds.

    Raises:
        RunDirectoryUnusableError: it cannot be read, is damaged, or is of another version.
    """
    try:
        return Plan.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RunDirectoryUnusableError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise RunDirectoryUnusableError(
            f"{path} is damaged, or was written by another version of launcher. Restore it from a copy, or use that "
            "version."
        ) from None
