"""Refuses secrets in recipes: a recipe goes into the run directory, to W&B and onto screens."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from launcher.errors import Mistake

# What is known by its look, wherever it stands.
_LOOKS = {
    "a W&B key": r"wandb_v\d+_\w{20,}",
    "a Hugging Face token": r"hf_[A-Za-z0-9]{30,}",
    "an API key": r"sk-(?=[\w-]*\d)(?=[\w-]*[A-Z])[\w-]{20,}",
    "a GitHub token": r"gh[opsu]_[A-Za-z0-9]{36}|github_pat_\w{22,}",
    "a GitLab token": r"glpat-[\w-]{20,}",
    "an AWS key": r"A[KS]IA[0-9A-Z]{16}(?![0-9A-Z])",
    "a Google key": r"AIza[\w-]{35}",
    "a Slack token": r"xox[abprs]-[\w-]{10,}",
    "a signed token": r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "an address with a password": r"[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@",
}
_LOOK = re.compile("|".join(f"(?<![A-Za-z0-9_-])(?:{look})" for look in _LOOKS.values()))
_FORTY = re.compile(r"(?<![0-9A-Za-z])[0-9a-f]{40}(?![0-9A-Za-z])")  # a W&B key, or the name of a git commit
_COMMIT = re.compile(r"revision|commit|sha1?|ref|checksum|hash|version", re.IGNORECASE)
# What is known by its name; not "token" alone at the end, for tasks have pad tokens and the like.
_NAME = re.compile(
    r"-*(.*[_-])?(api[_-]?key|secret([_-](access[_-])?key)?|password|passwd|passphrase|private[_-]key|access[_-]key"
    r"|(access|auth|bearer|hf|api|wandb|github)[_-]token|credentials?)|-*token",
    re.IGNORECASE,
)
_OF_ENVIRONMENT = re.compile(
    r".*(key|token|secret|(?<!by)pass|password|passwd|passphrase|credentials?|_pwd)", re.IGNORECASE
)
_LEAST = 6  # characters of a secret that is known by its name alone


def secrets_in(data: Mapping[str, Any]) -> Iterator[Mistake]:
    """A mistake for each secret in a recipe; none of them shows it.

    Args:
        data: the recipe as it was read.
    """
    for key, name, value in texts_in(data):
        kind = _kind(name, value)
        if kind:
            yield Mistake(
                key,
                f"looks like {kind}, and a recipe is copied to the run directory and to W&B",
                "Set it in the environment, such as WANDB_API_KEY or HF_TOKEN, and let the task read it there",
            )


def without_secrets(text: str, environ: Mapping[str, str]) -> str:
    """A text with nothing in place of the secrets of an environment: an exception may quote one.

    Args:
        text: what is to be written down.
        environ: the environment.
    """
    values = {value for name, value in environ.items() if _OF_ENVIRONMENT.fullmatch(name) and len(value) >= _LEAST}
    for value in sorted(values, key=len, reverse=True):  # one may be a part of another
        text = text.replace(value, "***")
    return text


def variable_is_secret(name: str) -> bool:
    """Whether the variable of the environment that has such a name is a secret, whatever it looks like."""
    return _OF_ENVIRONMENT.fullmatch(name) is not None


def texts_in(data: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Every text of a recipe: its dotted key, its name, and itself. In a list it is named by the option before it.

    Args:
        data: the recipe as it was read.
    """
    yield from _texts(data, "", "")


def _kind(name: str, text: str) -> str | None:
    """What a text would be, as the value of a name; None for no secret."""
    found = _LOOK.search(text)
    if found:
        return next(kind for kind, look in _LOOKS.items() if re.match(look, found[0]))
    if _FORTY.search(text) and not _COMMIT.search(name) and not _COMMIT.search(text):
        return "a W&B key"
    option, _, value = text.partition("=")
    if option.startswith("-") and _NAME.fullmatch(option) and len(value) >= _LEAST:
        return "a secret"
    return "a secret" if _NAME.fullmatch(name) and len(text) >= _LEAST and not text.startswith("-") else None


def _texts(value: Any, key: str, name: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(value, Mapping):
        for word, below in value.items():
            yield from _texts(below, f"{key}.{word}" if key else str(word), str(word))
    elif isinstance(value, list):
        before = name
        for below in value:
            yield from _texts(below, key, before)
            before = below if isinstance(below, str) and below.startswith("-") else ""
    elif isinstance(value, str):
        yield key, name, value
