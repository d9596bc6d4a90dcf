"""Whether W&B will find a key, and of what form; its value is looked at and never told."""

from __future__ import annotations

import netrc
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from launcher.doctor.finding import Finding, ok, warning

_SHORTEST = 40  # characters, W&B's own rule
_CLOUD = "https://api.wandb.ai"
_CURE = "Runs go offline without one, and launcher sync uploads them. wandb login, or set WANDB_API_KEY"


def examine_key(environ: Mapping[str, str], home: Path) -> Finding:
    """Where a key is, if there is one.

    Args:
        environ: the environment.
        home: the user's folder.
    """
    mode = environ.get("WANDB_MODE", "")
    if mode in ("offline", "disabled", "dryrun"):
        return ok("W&B", f"{mode}, because WANDB_MODE says so")
    host = urlsplit(environ.get("WANDB_BASE_URL", _CLOUD)).hostname or ""
    key, where = environ.get("WANDB_API_KEY", ""), "WANDB_API_KEY"
    if not key:
        file = Path(environ.get("NETRC") or next((home / name for name in (".netrc", "_netrc")
                                                  if (home / name).is_file()), home / ".netrc"))  # fmt: skip
        try:
            found = netrc.netrc(file).authenticators(host)
        except OSError:
            found = None
        except netrc.NetrcParseError:
            return warning("W&B", f"{file} cannot be read as a netrc file", _CURE)
        key, where = (found[2] or "" if found else ""), f"{file}, for {host}"
    if not key:
        return warning("W&B", f"no key for {host}", _CURE)
    length = len(key.strip())
    if length < _SHORTEST:
        said = f"the key in {where} has {length} characters, and W&B's have {_SHORTEST} or more"
        return warning("W&B", said, "Copy it again: wandb login --relogin")
    return ok("W&B", f"a key in {where}")
