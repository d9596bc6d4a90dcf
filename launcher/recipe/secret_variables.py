"""Refuses secrets among the variables and texts that a recipe gives an engine: what is sent there is shown and kept."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from launcher.errors import Mistake
from launcher.recipe.secret_values import texts_in, variable_is_secret

# Where a text goes → what is shown of it, and where its secrets belong.
_PLACES = {
    "launch.docker.": ("the command is shown", "Set {name} in the environment, and name it in launch.docker.env"),
    "launch.kubernetes.": (
        "the manifest is shown and kept",
        "Write launch.kubernetes.secrets: {{{name}: {{name: NAME, key: KEY}}}} for a secret of the cluster",
    ),
    "launch.skypilot.": (
        "the task file is shown and kept",
        "Set {name} in the environment, and name it in launch.skypilot.secrets",
    ),
    "launch.slurm.": (
        "the script is shown and kept",
        "Set {name} in the environment that you submit from: a job has it too",
    ),
}
# NAME=value, or an option with its value.
_ASSIGNED = re.compile(r"(?<![\w.$/-])([A-Za-z_]\w*)=[\"']?([^\s\"',;])")
_OPTION = re.compile(r"(?<![\w.$/-])--?([A-Za-z][\w-]*)(?:=|\s+)[\"']?([^\s\"',;-])")
_REFERENCE = re.compile(r"\$\(\w+\)")  # to another variable, as Kubernetes writes it
_SHELL = "launch.skypilot.setup"  # which puts in what $NAME and $(cat FILE) stand for
_ORDINARY = ("key",)  # names that are no secret's


def secret_variables_in(data: Mapping[str, Any]) -> Iterator[Mistake]:
    """A mistake for each variable of a recipe that is a secret by its name; none of them shows its value.

    Args:
        data: the recipe as it was read.
    """
    for name, value in _mapping(data, "launch", "kubernetes", "env").items():
        if variable_is_secret(name) and not _REFERENCE.fullmatch(str(value)):
            yield _mistake(f"launch.kubernetes.env.{name}", "", name)
    for key, _, text in texts_in(data):
        secret = next(_secrets_given(text, in_shell=key == _SHELL), None)
        if secret is not None and key.startswith(tuple(_PLACES)):
            yield _mistake(key, f"{secret} ", secret)


def _secrets_given(text: str, *, in_shell: bool) -> Iterator[str]:
    """The names of the secrets that a text gives a value to."""
    for found in (*_ASSIGNED.finditer(text), *_OPTION.finditer(text)):
        name, begins = found.groups()
        if variable_is_secret(name) and name not in _ORDINARY and not (in_shell and begins in "$`"):
            yield name


def _mistake(key: str, subject: str, name: str) -> Mistake:
    shown, cure = next(words for place, words in _PLACES.items() if key.startswith(place))
    return Mistake(key, f"{subject}is a secret, and {shown}", cure.format(name=name))


def _mapping(data: Any, *keys: str) -> Mapping[str, Any]:
    """The mapping under some keys; empty where there is none."""
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data if isinstance(data, Mapping) else {}
