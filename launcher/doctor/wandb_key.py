"""Whether W&B will find a key, and of what form; its value is looked at and never told."""

from __future__ import annotations

import configparser
import netrc
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from launcher.doctor.finding import Finding, ok, warning
from launcher.errors import quoted

_SHORTEST = 40  # characters, W&B's own rule
_CLOUD = "https://api.wandb.ai"
_CURE = "Runs go offline without one, and launcher sync uploads them. wandb login, or set WANDB_API_KEY"


def examine_key(environ: Mapping[str, str], home: Path, folder: Path = Path()) -> Finding:
    """Where a key is, if there is one.

    Args:
        environ: the environment.
        home: the user's folder.
        folder: that runs are started in.
    """
    mode = environ.get("WANDB_MODE", "")
    if mode in ("offline", "disabled", "dryrun"):
        return ok("W&B", f"{mode}, because WANDB_MODE says so")
    url, said_by = _server(environ, home, folder)
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        host = ""
    if not host:
        cure = f"Write one such as {_CLOUD}, or do without it"
        return warning("W&B", f"{quoted(url)} is no address of a server ({said_by})", cure)
    key, where = environ.get("WANDB_API_KEY", ""), "WANDB_API_KEY"
    if not key:
        file = Path(environ.get("NETRC") or next((home / name for name in (".netrc", "_netrc")
                                                  if (home / name).is_file()), home / ".netrc"))  # fmt: skip
        try:
            found = netrc.netrc(file).authenticators(host)
        except OSError:
            found = None
        except (netrc.NetrcParseError, UnicodeDecodeError):
            return warning("W&B", f"{file} cannot be read as a netrc file", _CURE)
        key, where = (found[2] or "" if found else ""), f"{file}, for {host}"
    if not key:
        return warning("W&B", f"no key for {host}", _CURE)
    length = len(key.strip())
    if length < _SHORTEST:
        said = f"the key in {where} has {length} characters, and W&B's have {_SHORTEST} or more"
        return warning("W&B", said, "Copy it again: wandb login --relogin")
    return ok("W&B", f"a key in {where}")


def _server(environ: Mapping[str, str], home: Path, folder: Path) -> tuple[str, str]:
    """The server that runs will talk to, and what says so: the environment, or the nearest of W&B's settings files."""
    if url := environ.get("WANDB_BASE_URL"):
        return url, "WANDB_BASE_URL"
    chosen = environ.get("WANDB_CONFIG_DIR")
    general = Path(chosen).expanduser() if chosen else home / ".config" / "wandb"
    for file in (folder / "wandb" / "settings", general / "settings"):
        settings = configparser.ConfigParser(interpolation=None)
        try:
            settings.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError):  # W&B does without it, too
            continue
        if url := settings.get("default", "base_url", fallback=""):
            return url, str(file)
    return _CLOUD, "W&B's own"
