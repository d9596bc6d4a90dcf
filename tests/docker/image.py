"""The image of docker/Dockerfile, built as it is, on a base of Debian's packages where no image can be fetched."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from tests.docker.daemon import Daemon
from tests.processes import ROOT

IMAGE = "launcher:test"
_PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


class NoImageError(Exception):
    """What the image is made of cannot be had here."""


def base_name() -> str:
    """The image that docker/Dockerfile begins with."""
    found = re.search(r"^ARG BASE_IMAGE=(\S+)$", (ROOT / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    assert found
    return found[1]


def make_base(daemon: Daemon, folder: Path) -> None:
    """Give the daemon a stand-in for that image.

    Args:
        daemon: the daemon.
        folder: where its files are made.

    Raises:
        NoImageError: they cannot be.
    """
    root = folder / "root"
    command = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
    if done.returncode:
        raise NoImageError(f"debootstrap has failed: {done.stdout.strip().splitlines()[-1:]}")
    if _CERTIFICATES.exists():  # of this machine, behind whose proxy the registries may be
        shutil.copyfile(_CERTIFICATES, root / _CERTIFICATES.relative_to("/"))
    for file in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        file.unlink()
    tar = folder / "base.tar"
    subprocess.run(["tar", "-C", str(root), "-cf", str(tar), "."], check=True)
    shutil.rmtree(root)
    daemon.docker("import", "--change", 'CMD ["python3"]', str(tar), base_name())
    tar.unlink()


def build(daemon: Daemon, folder: Path) -> None:
    """Build the image, with the torch of these tests.

    Args:
        daemon: the daemon, which has the base.
        folder: where the files lie that go to it.

    Raises:
        NoImageError: torch cannot be had as a wheel.
    """
    wheels = folder / "wheels"
    torch = f"torch=={version('torch').partition('+')[0]}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(wheels), torch]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
    if done.returncode:
        raise NoImageError(f"pip cannot download {torch}: {done.stderr.strip().splitlines()[-1:]}")
    context = folder / "context"
    for name in ("pyproject.toml", "README.md", "LICENSE", ".dockerignore", "launcher", "docker"):
        _copy(ROOT / name, context / name)
    for wheel in wheels.iterdir():
        wheel.rename(context / "docker" / "wheels" / wheel.name)
    arguments = ["--build-arg=TORCH_INDEX=", f"--build-arg=TORCH={torch}", f"--tag={IMAGE}"]
    dockerfile = f"--file={context}/docker/Dockerfile"
    daemon.docker("build", "--network=host", dockerfile, *arguments, str(context), env={"DOCKER_BUILDKIT": "1"})
    shutil.rmtree(context)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.whl"))
    else:
        shutil.copyfile(source, target)
