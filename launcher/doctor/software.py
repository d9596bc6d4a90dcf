"""Python and the packages: their versions, and whether those fit. Nothing is imported to see that."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from launcher.doctor.finding import Finding, ok, problem, warning

_OLDEST = (3, 10)
_SHOWN = ("torch", "accelerate", "deepspeed", "wandb")  # the others are named only where they do not fit

Installed = Callable[[str], str]


def examine_software(
    wanted: Sequence[str] | None = None, installed: Installed = version, python: tuple[int, ...] = sys.version_info[:3]
) -> Iterator[Finding]:
    """Python, and every package that the launcher needs or can use.

    Args:
        wanted: requirements as a package states them; None: those of the launcher.
        installed: the version of a package; raises PackageNotFoundError where it is missing.
        python: the version of Python.
    """
    said = ".".join(map(str, python))
    if python < _OLDEST:
        yield problem("Python", f"{said} is too old", f"Use {'.'.join(map(str, _OLDEST))} or newer")
    else:
        yield ok("Python", f"{said} at {sys.executable}")
    found, seen = _requirements(wanted), set[str]()
    for requirement in found:
        if requirement.name not in seen:
            seen.add(requirement.name)
            yield from _package(requirement, installed)


def _requirements(wanted: Sequence[str] | None) -> list[Requirement]:
    if wanted is None:
        try:
            wanted = requires("launcher") or []
        except PackageNotFoundError:  # run from its folder, without being installed
            wanted = []
    parsed = [Requirement(text) for text in wanted]
    return [one for one in parsed if one.marker is None or one.marker.evaluate({"extra": "deepspeed"})]


def _package(requirement: Requirement, installed: Installed) -> Iterator[Finding]:
    name, optional = requirement.name, requirement.marker is not None
    try:
        has = installed(name)
    except PackageNotFoundError:
        if optional:
            yield ok(name, f"not installed; pip install 'launcher[{name}]' brings it")
        else:
            yield problem(name, "is not installed", f"pip install '{name}{requirement.specifier}'")
        return
    if not requirement.specifier.contains(has, prereleases=True):
        fits = f"{name}{requirement.specifier}"
        found = (name, f"{has} does not fit: {fits} is needed", f"pip install '{fits}'")
        yield warning(*found) if optional else problem(*found)
    elif name in _SHOWN:
        yield ok(name, has)
