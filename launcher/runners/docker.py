"""Calls of Docker's own command: what it is told is worked out elsewhere."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from signal import Signals as Signal

from launcher.errors import ExitCode, LauncherError
from launcher.launch.docker import LABEL, HostUser
from launcher.launch.submission import Submission
from launcher.linux import stop_with_parent
from launcher.rundir.layout import RunDirectory, write_atomically
from launcher.runners.launch_files import write_files
from launcher.runners.program import Program, ProgramError
from launcher.runners.supervise import Signals

_ANSWER = 60.0  # seconds that a command may take which waits for nothing
_NOTHING_STARTED = (125, 126, 127)  # exit codes of `docker run` itself
_BY_SIGNAL = 128  # what is added to the number of the signal that has ended a process
_TICK = 0.1
_ID = re.compile(r"[0-9a-f]{12,64}")


class DockerError(ProgramError):
    """Docker is not there, or does not do what it was asked for."""


def _complaint(lines: list[str]) -> str:
    return "; ".join(line for line in lines if "--help" not in line).removeprefix("docker: ")


_DOCKER = Program(
    DockerError, "Docker is not installed here: there is no docker.", patience=_ANSWER, complaint=_complaint
)


@dataclass(frozen=True)
class ContainerState:
    """What Docker says of a container.

    Attributes:
        state: its state, in Docker's words (created, running, exited ...).
        details: whether its health check is content, or its exit code.
    """

    state: str
    details: str = ""

    @property
    def active(self) -> bool:
        """Whether it runs, or will."""
        return self.state not in ("exited", "dead", "removing")

    def __str__(self) -> str:
        return f"{self.state}, {self.details}" if self.details else self.state


@dataclass(frozen=True)
class Container:
    """A container that was left to Docker.

    Attributes:
        number: its id, as short as Docker shows it.
    """

    number: str

    engine = "Docker"

    @staticmethod
    def of(run: RunDirectory) -> Container | None:
        """The last container of a run; None where it was never submitted."""
        try:
            name = run.docker_job.read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
        return Container(name) if name.isalnum() else None

    def state(self) -> ContainerState | None:
        """What Docker says of it now; None where it was removed.

        Raises:
            DockerError: Docker does not answer.
        """
        try:
            asked = ["docker", "inspect", "--type=container", "--format={{json .State}}", self.number]
            return _DOCKER.ask(asked, _state_in)
        except DockerError as error:
            if "o such container" not in str(error):
                raise
            return None

    def output(self, run: RunDirectory, follow: bool) -> Iterator[str]:
        """The lines that it has printed.

        Args:
            run: the directory of its run.
            follow: until it has ended.

        Raises:
            DockerError: Docker does not tell.
        """
        command = ["docker", "logs", *(["--follow"] if follow else []), self.number]
        yield from _DOCKER.lines(command)

    def end(self, *, now: bool, say: Callable[[str], None]) -> ContainerState | None:
        """End it and wait for that; what Docker says of it then.

        Args:
            now: do not wait for an update and a checkpoint.
            say: takes a sentence that the user should read.

        Raises:
            DockerError: Docker does not answer.
        """
        if now:
            call(["docker", "kill", self.number])
        else:
            say(f"container {self.number} ends at its next update, with a checkpoint; --now does not wait for that")
            call(["docker", "stop", self.number], patience=None)  # Docker waits for as long as the container was given
        return self.state()


def host_user() -> HostUser:
    """Whose files those of a run are to be: the user of this process."""
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return HostUser(uid, os.getgid(), name)


def submit(job: Submission, run: RunDirectory) -> Container:
    """Start a container that Docker keeps; its id is kept in the directory of the run. The one before is removed.

    Args:
        job: the container, the object that a dry run prints.
        run: the directory of the run, which exists.

    Raises:
        DockerError: Docker does not take it.
    """
    before = Container.of(run)
    write_files(job.files)
    there = _containers(run)
    try:
        name = _DOCKER.ask(job.argv, _id_in, patience=None)  # an image that is not here is fetched first
        write_atomically(run.docker_job, f"{name}\n", lasting=True)
    except BaseException:
        if there is not None and (made := (_containers(run) or set()) - there):
            with suppress(DockerError):
                call(["docker", "rm", "--force", *made])
        raise
    if before is not None:
        with suppress(DockerError):
            call(["docker", "rm", before.number])
    return Container(name)


def _containers(run: RunDirectory) -> set[str] | None:
    """The containers that Docker has of a run; None where it does not say."""
    with suppress(DockerError):
        return set(call(["docker", "ps", "--all", "--quiet", f"--filter=label={LABEL}={run.path}"]).split())
    return None


def run_attached(job: Submission, signals: Signals) -> int:
    """Run a container to its end, with its output here; the exit code of what runs in it.

    Signals that come here are handed on by `docker run`. It gets one too when this process is killed.

    Args:
        job: the container, the object that a dry run prints.
        signals: what came for this process.

    Raises:
        DockerError: nothing was started.
    """
    write_files(job.files)
    told = 0
    with (
        _DOCKER.startable(job.argv),
        subprocess.Popen(
            job.argv, stdin=subprocess.DEVNULL, preexec_fn=stop_with_parent, start_new_session=True
        ) as process,
    ):
        while True:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(_TICK)
                break
            for number in signals.received[told:]:
                process.send_signal(number)
                told += 1
    if code in _NOTHING_STARTED:
        raise DockerError(f"Docker has started nothing (exit code {code}): what it says to that stands above.")
    ended_by = abs(code) - _BY_SIGNAL if code > 0 else -code
    if ended_by in signals.received:  # before the launcher inside could listen
        return ExitCode.INTERRUPTED
    if code > _BY_SIGNAL + 1 and code != ExitCode.INTERRUPTED:
        name = Signal(ended_by).name if ended_by in set(Signal) else f"exit code {code}"
        raise LauncherError(f"The container was ended by {name}: memory was short, or somebody has killed it.")
    return code


def call(command: Sequence[str], patience: float | None = _ANSWER) -> str:
    """What a command of Docker's prints.

    Args:
        command: the command.
        patience: seconds that it may take; None for a command that waits for something.

    Raises:
        DockerError: it is not installed, fails, or does not end.
    """
    return _DOCKER.call(command, patience)


def _state_in(said: str) -> ContainerState:
    state = json.loads(said)
    if state["Status"] == "running":
        return ContainerState("running", (state.get("Health") or {}).get("Status", ""))
    return ContainerState(state["Status"], f"exit code {state['ExitCode']}" if state["Status"] == "exited" else "")


def _id_in(said: str) -> str:
    """What Docker calls a container that it has started, as short as it shows it."""
    name = said.split()[-1]
    if not _ID.fullmatch(name):
        raise ValueError(name)
    return name[:12]
