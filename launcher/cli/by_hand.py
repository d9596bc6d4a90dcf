"""Machines that people start one by one: what their flags say, against what the recipe does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher.cli.request import Request, read_request
from launcher.errors import Mistake, RequestError
from launcher.recipe.load import load_recipe
from launcher.runners.place import Place, slurm_place


def request_by_hand(path: Path, overrides: Sequence[str], place: Place, environ: Mapping[str, str]) -> Request:
    """A recipe for as many machines as the flags say.

    Args:
        path: the recipe file.
        overrides: `key.path=value` strings, later ones winning.
        place: of this machine, as the flags say.
        environ: the environment of this process.

    Raises:
        RequestError: with every mistake, also where recipe and flags contradict each other.
    """
    loaded = load_recipe(path, overrides)
    launch = loaded.recipe.launch
    mistake = None
    if slurm_place(environ) is not None:
        mistake = Mistake(
            "--node-rank", "srun has given this machine its place", "Leave out --nodes, --node-rank and --rendezvous"
        )
    elif launch.elastic:
        mistake = Mistake(
            "launch.nodes",
            f"machines of an elastic run ({launch.nodes}) have no places",
            "Leave out --nodes, --node-rank and --rendezvous, or set launch.nodes to a number",
        )
    elif "launch.nodes" in loaded.marks and launch.nodes != place.nodes:
        mistake = Mistake(
            "launch.nodes",
            f"is {launch.nodes}, and --nodes says {place.nodes}",
            "Leave it out of the recipe, or give --nodes the same",
        )
    if mistake is not None:
        raise RequestError([mistake]).located(loaded.marks)
    return read_request(path, [*overrides, f"launch.nodes={place.nodes}"])
