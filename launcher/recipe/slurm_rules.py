"""Rules of what Slurm is asked for, as far as the recipe alone can break them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from launcher.errors import Mistake, quoted
from launcher.recipe.schema import Recipe

EARLY = 60  # seconds by which Slurm's warning may come too early: it looks at its jobs now and then
_OPTION = re.compile(r"[a-z][a-z0-9-]+")
_GPU = re.compile(r"gpu(:[A-Za-z][\w.-]*)?(:(?P<count>[1-9][0-9]{0,3}))?")  # as gres has it
_SINGLE_LINE = re.compile(r"[^\x00-\x1f\x7f\"'\\#]*")  # what a line of a batch script takes as it is, in quotes
# What the launcher writes itself → the key that says it.
_OWN = {
    "account": "launch.slurm.account",
    "cpus-per-task": "launch.slurm.cpus_per_node",
    "gpus": "launch.slurm.gpus_per_node",
    "gpus-per-node": "launch.slurm.gpus_per_node",
    "gpus-per-task": "launch.slurm.gpus_per_node",
    "job-name": "name",
    "mem": "launch.slurm.memory",
    "nodes": "launch.nodes",
    "partition": "launch.slurm.partition",
    "signal": "launch.slurm.signal_before",
    "time": "launch.slurm.time",
}
_OTHERS = (
    "array", "chdir", "error", "no-requeue", "ntasks", "ntasks-per-node", "open-mode", "output", "parsable",
    "requeue", "test-only", "wait", "wrap",
)  # fmt: skip


def seconds_of(time: str) -> int:
    """The seconds of a time limit in Slurm's form, which the schema has checked."""
    days, _, clock = time.rpartition("-")
    hours, minutes, seconds = (int(part) for part in clock.split(":"))
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _time_for_the_signal(recipe: Recipe) -> Iterator[Mistake]:
    slurm, grace, before = recipe.launch.slurm, recipe.launch.grace, recipe.launch.signal_before
    if before < grace:
        yield Mistake(
            "launch.slurm.signal_before",
            f"{before} seconds are less than launch.grace, the {grace:g} that a run may take to save",
            f"Write {int(grace) + 1} or more, or less for launch.grace",
        )
    needed = before + EARLY
    if slurm.time is not None and seconds_of(slurm.time) <= needed:
        yield Mistake(
            "launch.slurm.time",
            f"{slurm.time} is too short: the run is told to end {before} seconds before "
            f"(launch.slurm.signal_before), up to {EARLY} early, and would hardly begin",
            f"Give it more than {needed} seconds, or a smaller launch.slurm.signal_before",
        )


def _options_of_sbatch(recipe: Recipe) -> Iterator[Mistake]:
    for name, value in recipe.launch.slurm.options.items():
        key = f"launch.slurm.options.{name}"
        if name in _OWN:
            yield Mistake(key, "the launcher writes this option itself", f"Set {_OWN[name]}")
        elif name in _OTHERS:
            yield Mistake(key, "the launcher writes this option itself, or cannot do with it", "Delete it")
        elif not _OPTION.fullmatch(name):
            yield Mistake(key, "is no long name of an option of sbatch", "Write for example qos, without dashes before")
        elif not isinstance(value, bool | int | str) or value == "":
            yield Mistake(key, "must be text, a whole number, or true for an option without a value", "Give it one")
        elif isinstance(value, str):
            yield from _plain_text(key, value)


def gpus_in_gres(recipe: Recipe) -> int | None:
    """How many GPUs of each machine the option gres asks for, as in gpu:a100:4; None where it asks for none."""
    asked = str(recipe.launch.slurm.options.get("gres", "")).split(",")
    found = [int(kind["count"] or 1) for one in asked if (kind := _GPU.fullmatch(one.strip()))]
    return sum(found) if found else None


def _gpus_are_counted_once(recipe: Recipe) -> Iterator[Mistake]:
    asked, said = gpus_in_gres(recipe), recipe.launch.slurm.gpus_per_node
    if asked is not None and asked != said:
        counted = "null" if said is None else said
        yield Mistake(
            "launch.slurm.options.gres",
            f"asks for {asked} of a machine's GPUs, and launch.slurm.gpus_per_node is {counted}",
            f"Set launch.slurm.gpus_per_node={asked}",
        )


def _mounts_of_the_container(recipe: Recipe) -> Iterator[Mistake]:
    slurm = recipe.launch.slurm
    if slurm.mounts and slurm.container is None:
        yield Mistake("launch.slurm.mounts", "there is no container to mount anything in", "Set launch.slurm.container")
    for mount in slurm.mounts:
        if "," in mount or not mount.startswith("/"):
            yield Mistake(
                "launch.slurm.mounts",
                f"{quoted(mount)} is no folder to mount",
                "Write /folder or /folder:/in/container",
            )


def _plain_text(key: str, value: str) -> Iterator[Mistake]:
    if not _SINGLE_LINE.fullmatch(value):
        yield Mistake(
            key, f"{quoted(value)} has quotes, backslashes, # or line breaks, which sbatch reads in its own way",
            "Do without them",
        )  # fmt: skip


def is_plain(value: Any) -> bool:
    """Whether a text can stand in a line of a batch script for what it is."""
    return _SINGLE_LINE.fullmatch(str(value)) is not None


SLURM_RULES = (
    (_time_for_the_signal, ("launch",)),
    (_options_of_sbatch, ("launch",)),
    (_gpus_are_counted_once, ("launch",)),
    (_mounts_of_the_container, ("launch",)),
)
