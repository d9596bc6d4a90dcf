"""Rules of what a container is given, as far as the recipe alone can break them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from launcher.errors import Mistake, quoted
from launcher.recipe.schema import Recipe

_OPTION = re.compile(r"[a-z][a-z0-9-]+")
_MOUNT = re.compile(r"/[^,:\"\x00-\x1f]*(:/[^,:\"\x00-\x1f]*)?")
# What the launcher writes itself → the key that says it; None: nothing does.
_OWN = {
    "detach": None,
    "entrypoint": None,
    "env": "launch.docker.env",
    "env-file": "launch.docker.env",
    "gpus": "launch.nproc_per_node and launch.device",
    "init": None,
    "interactive": None,
    "mount": "launch.docker.mounts",
    "network": "launch.docker.network",
    "rm": None,
    "shm-size": "launch.docker.shm_size",
    "stop-signal": None,
    "stop-timeout": "launch.docker.stop_timeout",
    "workdir": None,
    "tty": None,
    "user": None,
    "volume": "launch.docker.mounts",
}


def _time_to_save(recipe: Recipe) -> Iterator[Mistake]:
    chosen, grace = recipe.launch.docker.stop_timeout, recipe.launch.grace
    if chosen is not None and chosen <= grace:
        yield Mistake(
            "launch.docker.stop_timeout",
            f"{chosen} seconds are no more than launch.grace, the {grace:g} that a run may take to save",
            f"Write {int(grace) + 1} or more, or less for launch.grace",
        )


def _mounts(recipe: Recipe) -> Iterator[Mistake]:
    for mount in recipe.launch.docker.mounts:
        if not _MOUNT.fullmatch(mount):
            yield Mistake(
                "launch.docker.mounts",
                f"{quoted(mount)} is no folder to mount",
                "Write /folder or /folder:/in/container",
            )


def _options_of_docker(recipe: Recipe) -> Iterator[Mistake]:
    for name, value in recipe.launch.docker.options.items():
        key = f"launch.docker.options.{name}"
        if name in _OWN:
            said = _OWN[name]
            yield Mistake(key, "the launcher writes this option itself", f"Set {said}" if said else "Delete it")
        elif not _OPTION.fullmatch(name):
            yield Mistake(key, "is no long name of an option of docker run", "Write for example memory, without dashes")
        elif not isinstance(value, bool | int | str) or value == "":
            yield Mistake(key, "must be text, a whole number, or true for an option without a value", "Give it one")


DOCKER_RULES = (
    (_time_to_save, ("launch",)),
    (_mounts, ("launch",)),
    (_options_of_docker, ("launch",)),
)
