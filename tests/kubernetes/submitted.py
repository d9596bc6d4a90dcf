"""A run that tests submit to the server, and a kubectl that writes down what it is told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

from launcher.launch.kubernetes import LABEL
from tests.kubernetes.server import Server
from tests.launch.kubernetes_jobs import DIGITS, ON_CPU
from tests.processes import ROOT, clean_environment, launcher

# Writes its arguments down, and is the real one otherwise. What it may be made to add is for a server that is older
# than what a job asks for: without it kubectl refuses fields that such a server does not know.
# BETWEEN is what happens after the check, and before what was checked is done.
_RECORDING = """#!/bin/sh
echo "kubectl $*" >> "{told}"
case "$*" in create*--dry-run*) ;; create*) eval "$BETWEEN" ;; esac
if [ "$1" = create ]; then set -- "$@" $ADDED; fi
exec {kubectl} "$@"
"""
INDEXED = (1, 29)  # the first version that knows all fields of a job without being told to


@dataclass
class Submitted:
    """A run that was submitted, or will be.

    Attributes:
        server: where.
        folder: of this test; it holds the folder of the run.
        kind: of the job.
    """

    server: Server
    folder: Path
    kind: str = "job"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def manifest(self) -> Path:
        return self.runs / "it" / "kubernetes" / "manifest.yaml"

    def told(self) -> list[str]:
        """What kubectl was told to create or to delete."""
        path = self.folder / "told"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.split()[1] in ("create", "delete")]

    def environment(self, **changes: str) -> dict[str, str]:
        programs = self.folder / "programs"
        found = shutil.which("kubectl", path=self.server.environment["PATH"])
        if not programs.exists():
            programs.mkdir()
            (programs / "kubectl").write_text(_RECORDING.format(told=self.folder / "told", kubectl=found))
            (programs / "kubectl").chmod(0o755)
        old = self.server.version() < INDEXED
        added = {"ADDED": "--validate=false" if old else "", "BETWEEN": ""}
        path = f"{programs}:{self.server.environment['PATH']}"
        return {**self.server.environment, "PATH": path, **added, **changes}

    def launcher(self, *arguments: str, **env: str) -> CompletedProcess[str]:
        return launcher(*arguments, "--runs", str(self.runs), env=self.environment(**env))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "launcher", *arguments, "--runs", str(self.runs)]
        env = clean_environment(**self.environment())
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=env, text=True, stdout=pipe, stderr=pipe, cwd=ROOT)

    def submit(self, *more: str, settings: Sequence[str] = ON_CPU, **env: str) -> CompletedProcess[str]:
        kind = f"launch.kubernetes.kind={self.kind}"
        arguments = ("submit", str(DIGITS), *settings, kind, "--to", "kubernetes", "--run-id", "it", *more)
        return self.launcher(*arguments, **env)

    def made(self, name: str = "it") -> set[str]:
        """The objects that there are for a job, as kind/name, but for its pods."""
        kinds = "configmaps,services,jobs.batch"
        listed = self.server.kubectl("get", kinds, f"--selector={LABEL}={name}", "--output=name").stdout
        return set(listed.split())

    def pods(self, name: str = "it") -> list[str]:
        """The names of its pods."""
        found = self.server.read("pods", f"--selector={LABEL}={name}")
        return [pod["metadata"]["name"] for pod in found["items"]]

    def place(self, pod: str, node: str = "machine") -> None:
        """Do for a pod what a scheduler and a node would: it has a place, and runs."""
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod}, "target": target}
        where = f"/api/v1/namespaces/default/pods/{pod}/binding"
        self.server.kubectl("create", f"--raw={where}", "--filename=-", stdin=json.dumps(binding))
        self.says(pod, "Running")

    def says(self, pod: str, phase: str) -> None:
        """Say of a pod what its node would."""
        self.server.say(f"/api/v1/namespaces/default/pods/{pod}", {"phase": phase})

    def gone(self, pod: str) -> None:
        """Say that a pod that was to end has ended."""
        self.server.kubectl("delete", "pods", pod, "--force", "--grace-period=0", "--wait=false")
