"""The programs of a real Kubernetes server: where they are named, kept from before, or made of Debian's source.

Debian packages no server, but bookworm's source of kubectl is that of all of Kubernetes 1.20.2, with every module that
it needs, and bookworm has a Go that builds it. Nothing is installed: all is unpacked into a folder of its own.

`python -m tests.kubernetes.build` makes them, which takes some minutes, and says where they are.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from launcher.linux import end_with_parent

ASSETS = "TEST_KUBE_ASSETS"
_RELEASE = "bookworm"
_VERSION = "1.20.2"
# What it needs of Debian's packages: the last one for a Go that is newer than this Kubernetes.
_PACKAGES = ("etcd-server", "golang-1.19-go", "golang-1.19-src", "golang-github-modern-go-reflect2-dev")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_MADE = ("kube-apiserver", "kube-controller-manager")
_PATIENCE = 3600  # seconds that a command may take
_MODULE = "k8s.io/kubernetes"
# What is written above types that the server has to describe.
_DESCRIBED = re.compile(r"^\s*// ?\+k8s:openapi-gen=", re.MULTILINE)
_ASIDE = {"testdata", "code-generator", "sample-apiserver"}


class NoServerError(Exception):
    """The programs cannot be had here."""


def programs() -> Path:
    """The folder of kube-apiserver and etcd, and of kube-controller-manager unless it is one that was named.

    Raises:
        NoServerError: they cannot be had.
    """
    if given := os.environ.get(ASSETS):
        missing = [name for name in ("etcd", "kube-apiserver") if not (Path(given) / name).exists()]
        if missing:
            raise NoServerError(f"{ASSETS} is {given}, which has no {' and no '.join(missing)}")
        return Path(given)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = caches / "launcher-tests" / "kubernetes"
    kept = cache / _VERSION
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run of the tests may be at it
        if not kept.exists():
            for left in cache.glob("build-*"):
                shutil.rmtree(left)
            with tempfile.TemporaryDirectory(dir=cache, prefix="build-") as folder:
                _make(Path(folder)).rename(kept)
    return kept


def _make(folder: Path) -> Path:
    """Make them in a folder that has nothing, and is deleted afterwards; where in it they are."""
    _fetch(folder)
    for package in folder.glob("*.deb"):
        _run("dpkg-deb", "--extract", str(package), "root", folder=folder)
    tree = folder / "go" / "src" / _MODULE
    tree.mkdir(parents=True)
    (source,) = folder.glob("kubernetes_*.orig.tar.gz")
    _run("tar", "--extract", "--strip-components=1", f"--file={source}", f"--directory={tree}", folder=folder)
    reflect = "github.com/modern-go/reflect2"
    shutil.rmtree(tree / "vendor" / reflect)
    shutil.copytree(folder / "root/usr/share/gocode/src" / reflect, tree / "vendor" / reflect)
    _compile(folder, tree)
    shutil.copy2(folder / "root" / "usr" / "bin" / "etcd", folder / "bin")
    return folder / "bin"


def _fetch(folder: Path) -> None:
    """Let apt bring packages and source, with lists of its own: those of the machine have no sources."""
    signed = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
    mirror = _mirror(folder)
    lines = [f"{kind} {signed}{mirror} {_RELEASE} main\n" for kind in ("deb", "deb-src")]
    (folder / "sources.list").write_text("".join(lines))
    for made in ("lists/partial", "cache/archives/partial"):
        (folder / made).mkdir(parents=True)
    own = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root",
    }
    options = [f"--option={name}={value}" for name, value in own.items()]
    _run("apt-get", *options, "update", folder=folder)
    _run("apt-get", *options, "download", *_PACKAGES, folder=folder)
    _run("apt-get", *options, "source", "--download-only", "kubernetes", folder=folder)


def _mirror(folder: Path) -> str:
    """The mirror of Debian that this machine uses."""
    asked = ("apt-get", "indextargets", "--format=$(REPO_URI)", "Identifier: Packages", "LABEL: Debian")
    found = _run(*asked, folder=folder).split()
    if not found and os.geteuid() == 0:
        _run("apt-get", "update", folder=folder)
        found = _run(*asked, folder=folder).split()
    if not found:
        raise NoServerError("apt knows no mirror of Debian, whose source the server is made of")
    return found[0]


def _compile(folder: Path, tree: Path) -> None:
    environment = {
        "PATH": f"{folder}/root/usr/lib/go-1.19/bin:{os.environ['PATH']}",
        "GOROOT": f"{folder}/root/usr/lib/go-1.19",
        "GOPATH": f"{folder}/go",
        "GOCACHE": f"{folder}/cache/go",
        "GOTMPDIR": str(folder),
        "GOENV": "off",
        "GOFLAGS": "",
        "GO111MODULE": "off",  # what is vendored is taken as it is
        "CGO_ENABLED": "0",
    }
    generator, vendored = folder / "openapi-gen", f"{_MODULE}/vendor/k8s.io"
    _run("go", "build", "-o", str(generator), f"{vendored}/kube-openapi/cmd/openapi-gen", folder=tree, env=environment)
    _run(
        str(generator),
        f"--input-dirs={','.join(_described(tree))}",
        f"--output-package={_MODULE}/pkg/generated/openapi",
        "--output-file-base=zz_generated.openapi",
        "--go-header-file=vendor/k8s.io/code-generator/hack/boilerplate.go.txt",
        f"--report-filename={folder}/report",
        folder=tree,
        env=environment,
    )
    major, minor, _ = _VERSION.split(".")
    version = {"gitVersion": f"v{_VERSION}", "gitMajor": major, "gitMinor": minor}
    told = [f"{vendored}/{package}/version" for package in ("component-base", "client-go/pkg")]
    said = " ".join(f"-X {package}.{name}={value}" for package in told for name, value in version.items())
    (folder / "bin").mkdir()
    commands = [f"{_MODULE}/cmd/{name}" for name in _MADE]
    _run("go", "build", "-o", f"{folder}/bin/", f"-ldflags=-s -w {said}", *commands, folder=tree, env=environment)


def _described(tree: Path) -> list[str]:
    """The packages with types that the server describes to its clients."""

    def files() -> Iterator[Path]:
        for top in ("cmd", "pkg", "plugin", "staging/src/k8s.io"):
            for file in (tree / top).rglob("*.go"):
                if not _ASIDE & set(file.relative_to(tree).parts) and not file.stem.endswith("_test"):
                    yield file

    described = (file.parent for file in files() if _DESCRIBED.search(file.read_text(encoding="utf-8")))
    names = {str(folder.relative_to(tree)).replace("staging/src", "vendor") for folder in described}
    return sorted(f"{_MODULE}/{name}" for name in names)


def _run(*command: str, folder: Path, env: Mapping[str, str] | None = None) -> str:
    """What a command prints.

    Raises:
        NoServerError: it fails.
    """
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
            stdin=subprocess.DEVNULL,
            preexec_fn=end_with_parent,
        )
    except FileNotFoundError:
        raise NoServerError(f"{command[0]} is not installed, and no server can be made without it") from None
    if done.returncode:
        raise NoServerError(f"{command[0]} has failed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    return done.stdout


if __name__ == "__main__":
    print(f"export {ASSETS}={programs()}")
