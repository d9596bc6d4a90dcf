"""A real API server of Kubernetes on this machine, with etcd and, where they are at hand, the controllers of jobs.

No node belongs to it: what it takes is kept, and pods are made for it, but none of them runs.

`python -m tests.kubernetes.server FOLDER` starts one that stays, and says how to use and to end it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from launcher.linux import end_with_parent
from launcher.runners.address import free_port
from tests.kubernetes.build import programs

ADMIN = "admin"
# Who may do nothing until a test says otherwise.
GUEST = "guest"
_USERS = f"{ADMIN},{ADMIN},1,system:masters\n{GUEST},{GUEST},2\n"
_CONTROLLERS = ("job", "garbagecollector", "namespace", "resourcequota", "serviceaccount", "serviceaccount-token")


class Server:
    """A server whose files lie in a folder.

    Attributes:
        environment: what commands need to find it, as its administrator.
        certificates: the folder of its key, and of the certificate that clients trust.
        controllers: whether jobs get pods, and what a deleted object owned is deleted too.

    Args:
        folder: for all of its files.
        assets: the folder of its programs.
    """

    def __init__(self, folder: Path, assets: Path) -> None:
        self._folder = folder
        self._assets = assets
        self._processes: list[subprocess.Popen[bytes]] = []
        self.certificates = folder / "certificates"  # the server makes them
        self.controllers = (assets / "kube-controller-manager").exists()
        self.environment = self.as_user(ADMIN)

    def as_user(self, name: str) -> dict[str, str]:
        """What commands need to find it, as one of its users."""
        path = f"{self._assets}:{os.environ['PATH']}" if (self._assets / "kubectl").exists() else os.environ["PATH"]
        return {
            "KUBECONFIG": str(self._folder / f"{name}.kubeconfig"),
            "KUBECACHEDIR": str(self._folder / "kubectl"),
            "PATH": path,
        }

    def start(self, *, stays: bool = False) -> None:
        """Start it, and wait until it answers.

        Args:
            stays: whether it is to outlive this process.

        Raises:
            TimeoutError: it does not answer.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "users.csv").write_text(_USERS)
        port, etcd, peers = free_port(), f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
        for user in (ADMIN, GUEST):
            self._write_config(user, port)
        etcd_flags = {
            "data-dir": self._folder / "etcd",
            "listen-client-urls": etcd,
            "advertise-client-urls": etcd,
            "listen-peer-urls": peers,
        }
        self._spawn("etcd", etcd_flags, stays)
        server_flags = {
            "etcd-servers": etcd,
            "bind-address": "127.0.0.1",
            "advertise-address": "127.0.0.1",
            "endpoint-reconciler-type": "none",
            "secure-port": port,
            "cert-dir": self.certificates,
            "service-cluster-ip-range": "10.0.0.0/24",
            "authorization-mode": "RBAC",
            "token-auth-file": self._folder / "users.csv",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": self.certificates / "apiserver.key",
            "service-account-signing-key-file": self.certificates / "apiserver.key",
        }
        self._spawn("kube-apiserver", server_flags, stays)
        self._wait_for("get", "--raw=/readyz")
        if self.controllers:
            controller_flags = {
                "kubeconfig": self.environment["KUBECONFIG"],
                "controllers": ",".join(_CONTROLLERS),
                "leader-elect": "false",
                "secure-port": free_port(),
                "bind-address": "127.0.0.1",
                "cert-dir": self._folder / "controllers",
                "service-account-private-key-file": self.certificates / "apiserver.key",
                **({"port": 0} if self.version() < (1, 24) else {}),  # one more, for everybody, which others may have
            }
            self._spawn("kube-controller-manager", controller_flags, stays)
            self._wait_for("get", "serviceaccount", "default")

    def stop(self) -> None:
        """End all of it."""
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kubectl(
        self, *arguments: str, check: bool = True, stdin: str = "", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """One of kubectl's commands, to its end.

        Args:
            arguments: the command.
            check: whether it must not fail.
            stdin: what it reads.
            env: changes of its environment.
        """
        done = subprocess.run(
            ["kubectl", *arguments],
            env={**os.environ, **self.environment, **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0 or not check, f"{arguments}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done

    def read(self, *arguments: str) -> dict[str, Any]:
        """What `kubectl get` tells, as JSON."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "--output=json").stdout)
        return found

    def say(self, path: str, status: dict[str, Any]) -> None:
        """Change the status of an object, as what looks after it does.

        Args:
            path: of the object in the API.
            status: what is to be in it.
        """
        held = json.loads(self.kubectl("get", f"--raw={path}").stdout)
        held["status"] = {**held.get("status", {}), **status}
        self.kubectl("replace", f"--raw={path}/status", "--filename=-", stdin=json.dumps(held))

    def version(self) -> tuple[int, int]:
        """Its version, such as (1, 31)."""
        told = json.loads(self.kubectl("get", "--raw=/version").stdout)
        return int(told["major"]), int(told["minor"].rstrip("+"))

    def store(self) -> bytes:
        """All that etcd has written."""
        return b"".join(path.read_bytes() for path in (self._folder / "etcd").rglob("*") if path.is_file())

    def log(self) -> str:
        """The end of what each of its programs has written, for a test that fails."""
        return "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in sorted(self._folder.glob("*.log")))

    def process_ids(self) -> list[int]:
        """Those of its programs."""
        return [process.pid for process in self._processes]

    def _write_config(self, user: str, port: int) -> None:
        authority = str(self.certificates / "apiserver.crt")
        cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": authority}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": user}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        }
        Path(self.as_user(user)["KUBECONFIG"]).write_text(json.dumps(config))

    def _spawn(self, program: str, flags: Mapping[str, object], stays: bool) -> None:
        command = [str(self._assets / program), *(f"--{name}={value}" for name, value in flags.items())]
        with (self._folder / f"{program}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self._folder,
                    start_new_session=True,
                    preexec_fn=None if stays else end_with_parent,
                )
            )

    def _wait_for(self, *arguments: str) -> None:
        until = time.monotonic() + 90
        while self.kubectl(*arguments, check=False).returncode:
            if time.monotonic() > until or any(process.poll() is not None for process in self._processes):
                raise TimeoutError(self.log())
            time.sleep(0.2)


def kubectl_is_there() -> bool:
    """Whether the client is installed."""
    return shutil.which("kubectl") is not None


if __name__ == "__main__":
    made = Server(Path(sys.argv[1]).absolute(), programs())
    with suppress(KeyboardInterrupt):
        made.start(stays=True)
    print(f"export KUBECONFIG={made.environment['KUBECONFIG']}")
    print(f"# ended by: kill {' '.join(map(str, reversed(made.process_ids())))}")
