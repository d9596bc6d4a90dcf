"""A real Docker daemon of the tests' own, with Debian's packages and without systemd.

`python -m tests.docker.daemon FOLDER` starts one that stays, and says how to use and to end it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_CHAINS = ("DOCKER", "DOCKER-ISOLATION-STAGE-1", "DOCKER-ISOLATION-STAGE-2", "DOCKER-USER")


class Daemon:
    """A daemon whose images and containers lie in a folder.

    Attributes:
        environment: what commands need to find it.

    Args:
        folder: for all of its files; a socket's path has to be short.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.environment = {"DOCKER_HOST": f"unix://{folder}/d.sock"}

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [
            "dockerd",
            f"--host={self.environment['DOCKER_HOST']}",
            f"--data-root={self._folder}/data",
            f"--exec-root={self._folder}/exec",
            f"--pidfile={self._folder}/d.pid",
            "--storage-driver=overlay2",
            "--default-ulimit=nofile=1024:1024",
        ]
        with (self._folder / "d.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + 60
        while self.docker("version", check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > until:
                raise TimeoutError(self.log())
            time.sleep(0.1)

    def stop(self) -> None:
        """End all containers and the daemon, and take its network and rules away again."""
        if self._process is None:
            return
        if left := self.docker("ps", "--all", "--quiet", check=False).stdout.split():
            self.docker("rm", "--force", *left, check=False)
        self.docker("network", "prune", "--force", check=False)
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=60)
        _without_network()

    def docker(
        self, *arguments: str, check: bool = True, env: Mapping[str, str] | None = None, timeout: float = 1200
    ) -> subprocess.CompletedProcess[str]:
        """One of Docker's own commands, to its end. The client is Debian's, which has the builder with it."""
        program = next((path for path in ("/usr/bin/docker",) if Path(path).exists()), "docker")
        done = subprocess.run(
            [program, *arguments],
            env={**os.environ, **self.environment, **(env or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0 or not check, f"{arguments}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done

    def log(self) -> str:
        """What it has written, for a test that fails."""
        return (self._folder / "d.log").read_text()[-3000:]


def _without_network() -> None:
    """The bridge and the rules that a daemon leaves behind."""
    commands = [["ip", "link", "delete", "docker0"]]
    for table in ("filter", "nat"):
        for chain in ("INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"):
            listed = subprocess.run(["iptables", "-t", table, "-S", chain], capture_output=True, text=True, check=False)
            rules = [line.split() for line in listed.stdout.splitlines() if "docker0" in line or "DOCKER" in line]
            commands += [["iptables", "-t", table, "-D", *rule[1:]] for rule in rules if rule[0] == "-A"]
        for action in ("-F", "-X"):
            commands += [["iptables", "-t", table, action, chain] for chain in _CHAINS]
    for command in commands:
        with suppress(FileNotFoundError):
            subprocess.run(command, capture_output=True, check=False)


def programs_are_there() -> bool:
    """Whether a daemon can be started, and images built and composed."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return all(shutil.which(name, path=path) for name in ("dockerd", "iptables", "docker-compose", "debootstrap"))


if __name__ == "__main__":
    made = Daemon(Path(sys.argv[1]).absolute())
    made.start()
    print(f"export DOCKER_HOST={made.environment['DOCKER_HOST']}   # ended by: kill $(cat {sys.argv[1]}/d.pid)")
