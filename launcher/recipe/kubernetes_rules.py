"""Rules of what Kubernetes is asked for, as far as the recipe alone can break them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from launcher.errors import Mistake
from launcher.recipe.schema import Recipe

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _time_to_save(recipe: Recipe) -> Iterator[Mistake]:
    chosen, grace = recipe.launch.kubernetes.grace_period, recipe.launch.grace
    if chosen is not None and chosen <= grace:
        yield Mistake(
            "launch.kubernetes.grace_period",
            f"{chosen} seconds are no more than launch.grace, the {grace:g} that a run may take to save",
            f"Write {int(grace) + 1} or more, or less for launch.grace",
        )


def _variables(recipe: Recipe) -> Iterator[Mistake]:
    asked = recipe.launch.kubernetes
    for section, names in (("env", asked.env), ("secrets", asked.secrets)):
        for name in names:
            if not _VARIABLE.fullmatch(name):
                yield Mistake(f"launch.kubernetes.{section}", f"{name!r} is no name of a variable", "Use letters and _")


def _mounted_once(recipe: Recipe) -> Iterator[Mistake]:
    asked = recipe.launch.kubernetes
    paths = [asked.runs_path, *(volume.path for volume in asked.volumes)]
    for path in sorted({path for path in paths if paths.count(path) > 1}):
        yield Mistake("launch.kubernetes.volumes", f"two volumes are mounted at {path}", "Choose another path")


KUBERNETES_RULES = (
    (_time_to_save, ("launch",)),
    (_variables, ("launch",)),
    (_mounted_once, ("launch",)),
)
