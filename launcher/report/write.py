"""report.html."""

from __future__ import annotations

from pathlib import Path

from launcher.report.page import render_page
from launcher.report.read import read_run
from launcher.rundir.layout import RunDirectory, write_atomically


def write_report(run: RunDirectory) -> Path:
    """Write the report of a run as it stands now, into its directory.

    Returns:
        The page.

    Raises:
        RunDirectoryUnusableError: it holds no plan, or one that this version cannot read.
    """
    write_atomically(run.report, render_page(read_run(run)))
    return run.report
