"""The launch that a run would be given, without making its directory."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from launcher.cli.request import Request
from launcher.launch.build import build_launch
from launcher.launch.spec import LaunchSpec
from launcher.launch.torchrun import RENDEZVOUS_PORT, Meeting
from launcher.rundir.layout import RunDirectory
from launcher.runners.address import own_address
from launcher.runners.new_run import fresh_id, refuse_no_name


def preview(request: Request, runs: Path = Path("runs"), run_id: str | None = None) -> LaunchSpec | None:
    """The launch of a request in a directory that is not there yet; None for several machines, unless Ray starts
    their ranks."""
    launch = request.plan.recipe.launch
    if request.plan.topology.nodes > 1 and not launch.elastic and launch.method != "ray":
        return None
    name = fresh_id(request.plan.recipe.name, datetime.now()) if run_id is None else run_id
    refuse_no_name(name)
    run = RunDirectory((runs / name).absolute())
    meeting = Meeting(f"{own_address()}:{RENDEZVOUS_PORT}", name, launch.machines) if launch.elastic else None
    return build_launch(request.plan, run, request.machine, os.environ, meeting=meeting)
