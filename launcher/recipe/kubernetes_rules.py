"""Rules of what Kubernetes is asked for, as far as the recipe alone can break them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from launcher.errors import Mistake, quoted
from launcher.recipe.schema import Recipe

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORD = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_KEYS = "Use up to 63 letters, digits, dashes, dots and _, after a domain and / or not"
_OURS = {"/recipe": "the recipe", "/dev/shm": "the shared memory"}
_TOLERATION: dict[str, type] = {"key": str, "operator": str, "value": str, "effect": str, "tolerationSeconds": int}
_OPERATORS = ("Exists", "Equal")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


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
    mounts = [("runs_path", asked.runs_path), *(("volumes", volume.path) for volume in asked.volumes)]
    paths = [os.path.normpath(path) for _, path in mounts]
    for path in sorted({path for path in paths if paths.count(path) > 1}):
        yield Mistake("launch.kubernetes.volumes", f"two volumes are mounted at {path}", "Choose another path")
    for (key, _), path in zip(mounts, paths, strict=True):
        taken = next((ours for ours in _OURS if path == ours or path.startswith(f"{ours}/")), None)
        if path == "/" or taken:
            what = f"{path} is where {_OURS[taken]} is" if taken else "/ is all of the image"
            yield Mistake(f"launch.kubernetes.{key}", what, "Choose another path")


def _labels(recipe: Recipe) -> Iterator[Mistake]:
    asked = recipe.launch.kubernetes
    for section, labels in (("labels", asked.labels), ("node_selector", asked.node_selector)):
        for key, value in labels.items():
            if not _is_key(key):
                yield Mistake(f"launch.kubernetes.{section}", f"{quoted(key)} is no key of a label", _KEYS)
            elif value and not _WORD.fullmatch(value):
                yield Mistake(
                    f"launch.kubernetes.{section}.{key}",
                    f"{quoted(value)} is no value of a label",
                    "Use up to 63 letters, digits, dashes, dots and _",
                )


def _tolerations(recipe: Recipe) -> Iterator[Mistake]:
    for toleration in recipe.launch.kubernetes.tolerations:
        wrong, cure = "", ""
        key, operator = toleration.get("key"), toleration.get("operator", "Equal")
        if unknown := sorted(set(toleration) - set(_TOLERATION)):
            wrong, cure = f"{quoted(unknown[0])} is no part of a toleration", f"They are {', '.join(_TOLERATION)}"
        elif mistyped := [name for name, value in toleration.items() if type(value) is not _TOLERATION[name]]:
            kind = "a number" if _TOLERATION[mistyped[0]] is int else "a text"
            wrong, cure = f"{mistyped[0]}: {toleration[mistyped[0]]!r} is not {kind}", f"Write {kind}"
        elif key is not None and not _is_key(key):
            wrong, cure = f"{quoted(key)} is no key of a taint", _KEYS
        elif operator not in _OPERATORS:
            wrong, cure = f"{quoted(operator)} is no operator", f"Use {' or '.join(_OPERATORS)}"
        elif not key and operator != "Exists":
            wrong, cure = "a toleration without a key is one of every taint", "Name a key, or write operator: Exists"
        elif toleration.get("effect", _EFFECTS[0]) not in _EFFECTS:
            wrong, cure = f"{quoted(toleration['effect'])} is no effect", f"Use {', '.join(_EFFECTS)}"
        if wrong:
            yield Mistake("launch.kubernetes.tolerations", wrong, cure)


def _is_key(text: str) -> bool:
    """Whether a text can be the key of a label or of a taint: a name, after a domain or not."""
    domain, slash, name = text.rpartition("/")
    return bool(_WORD.fullmatch(name)) and bool(_DOMAIN.fullmatch(domain) if slash else True)


KUBERNETES_RULES = (
    (_time_to_save, ("launch",)),
    (_variables, ("launch",)),
    (_mounted_once, ("launch",)),
    (_labels, ("launch",)),
    (_tolerations, ("launch",)),
)
