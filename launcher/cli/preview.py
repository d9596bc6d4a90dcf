"""The launch that a run would be given, without making its directory."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from launcher.cli.request import Request
from launcher.launch.build import build_launch
from launcher.launch.spec import LaunchSpec
from launcher.launch.torchrun import RENDEZVOUS_PORT, Meeting
from launcher.recipe.node_range import NodeRange
from launcher.rundir.generation import read_generation
from launcher.rundir.layout import RunDirectory
from launcher.runners.address import interface_towards, own_address
from launcher.runners.new_run import fresh_id, refuse_no_name, shared_id
from launcher.runners.place import Place, meeting_at
from launcher.runners.rounds import Round


def preview(
    request: Request, runs: Path = Path("runs"), run_id: str | None = None, place: Place | None = None
) -> LaunchSpec | None:
    """The launch of a request, without making its directory; None for several machines that are started elsewhere.

    Args:
        request: the recipe with its plan.
        runs: the folder of all runs.
        run_id: name of the run's folder, or None for a fresh one.
        place: of this machine, where there are several and somebody has said where they meet.

    Raises:
        RequestError: the run has no name that all machines know.
    """
    launch, several = request.plan.recipe.launch, request.plan.topology.nodes > 1
    by_hand = several and place is not None and place.by_hand
    if several and not launch.elastic and launch.method != "ray" and not by_hand:
        return None
    if by_hand:
        run_id = shared_id(run_id)
    name = fresh_id(request.plan.recipe.name, datetime.now()) if run_id is None else run_id
    refuse_no_name(name)
    run = RunDirectory((runs / name).absolute())
    meeting = None
    if launch.elastic:
        own = own_address()
        by = interface_towards(own)
        meeting = Meeting(f"{own}:{RENDEZVOUS_PORT}", name, launch.machines, interface=by)
    elif place is not None and by_hand:
        meeting = meeting_by_hand(place, run)
    return build_launch(request.plan, run, request.machine, os.environ, meeting=meeting)


def meeting_by_hand(place: Place, run: RunDirectory) -> Meeting:
    """How the machines of a run will meet that somebody starts one by one."""
    first = Round(read_generation(run) + 1, launch=place.launch)  # the number with which the run is taken over
    machines = NodeRange(place.nodes, place.nodes)
    return meeting_at(place.endpoint, first.meeting_of(run), machines, leads=place.rank == 0, place=place)
