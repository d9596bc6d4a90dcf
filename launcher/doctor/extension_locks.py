"""Locks that a build of torch's extensions has left behind, for which every later one waits without a word."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from launcher.doctor.finding import Finding, ok, problem, warning

_OLD = 900.0  # seconds; the longest build of DeepSpeed's takes a few minutes


def examine_locks(environ: Mapping[str, str], home: Path, now: float | None = None) -> Iterator[Finding]:
    """The locks of builds, each in the folder of its extension.

    Args:
        environ: the environment, which may name the folder of all extensions, or that of all caches.
        home: the user's folder.
        now: seconds since 1970; None for the present.
    """
    chosen, cache = environ.get("TORCH_EXTENSIONS_DIR"), environ.get("XDG_CACHE_HOME")
    root = Path(chosen) if chosen else (Path(cache) if cache else home / ".cache") / "torch_extensions"
    locks = sorted(root.glob("**/lock")) if root.is_dir() else []
    for lock in locks:
        age = (time.time() if now is None else now) - lock.stat().st_mtime
        if age > _OLD:
            yield problem(
                "extensions",
                f"{lock} is {age / 3600:.1f} hours old: a build that waits for it never ends",
                f"See that nothing builds, then: rm {lock}",
            )
        else:
            yield warning("extensions", f"{lock} is {age:.0f} s old: a build goes on, or was killed",
                          "Wait for it; if nothing builds, remove it")  # fmt: skip
    if not locks:
        yield ok("extensions", f"no lock in {root}")
