"""What the pods of a job print, whichever of them there are: some begin late, others take the place of those before."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import Empty, Queue
from threading import Thread
from typing import TextIO

from launcher.runners.kubectl import KUBECTL, KubernetesError
from launcher.runners.program import text_of

_FOLLOWED_AT_MOST = 1000  # pods
_LOOK = 2.0  # seconds between two looks for pods that print
_ASK = 5.0  # seconds between two questions while what they print is followed
_LINE = re.compile(r"(\[pod/\S+\]) (\d{4}-\d\d-\d\dT[0-9:.]+)\S* ?(.*)", re.DOTALL)  # the pod, the time, the text


class PodLogs:
    """The lines of a job's pods, each of them once, however often they are asked for.

    Attributes:
        silent: whether there was none yet.

    Args:
        mine: what tells kubectl which pods are meant, and where they are.
    """

    def __init__(self, mine: Sequence[str]) -> None:
        self._mine = mine
        # The time of the last line of each pod, and how many of that time came before it.
        self._last: dict[str, tuple[str, int]] = {}
        self._complaint = ""

    @property
    def silent(self) -> bool:
        """Whether there was no line yet."""
        return not self._last

    def printed(self) -> Iterator[str]:
        """The lines by now, each after the name of its pod; a pod that has not begun has none.

        Raises:
            KubernetesError: Kubernetes does not tell.
        """
        if self._begun():
            yield from self._new(KUBECTL.call(self._command(), patience=None).split("\n"))
            if self.silent and self._complaint:
                raise KubernetesError(f"kubectl logs has failed: {self._complaint}")

    def followed(self, active: Callable[[], bool]) -> Iterator[str]:
        """The lines by now and those to come, until the job has ended.

        Args:
            active: whether it runs, or will.

        Raises:
            KubernetesError: Kubernetes does not tell.
        """
        while active():
            pods = self._begun()
            if pods:
                yield from self._new(self._until_others(pods))
            time.sleep(_LOOK)
        yield from self.printed()

    def _until_others(self, pods: frozenset[str]) -> Iterator[str]:
        """What kubectl prints of pods, until they have ended or others have begun; empty lines while it is silent."""
        command = [*self._command(), "--follow", f"--max-log-requests={_FOLLOWED_AT_MOST}"]
        with KUBECTL.started(command) as process:
            lines: Queue[str | None] = Queue()
            Thread(target=_read, args=(text_of(process), lines), daemon=True).start()
            asked = time.monotonic()
            while (line := _next(lines)) is not None:
                yield line
                if time.monotonic() - asked > _ASK:
                    if self._begun() - pods:
                        return
                    asked = time.monotonic()

    def _new(self, lines: Iterable[str]) -> Iterator[str]:
        """Those that were not there before, of all the lines that kubectl prints; without their time."""
        before, now = dict(self._last), dict[str, tuple[str, int]]()
        for line in lines:
            found = _LINE.fullmatch(line.rstrip("\r"))
            if found is None:  # what kubectl says itself of a pod
                self._complaint = line.removeprefix("error: ") or self._complaint
                continue
            pod, moment, text = found.groups()
            last, number = now.get(pod, ("", 0))
            now[pod] = (moment, number + 1 if moment == last else 1)
            if now[pod] > before.get(pod, ("", 0)):
                self._last[pod] = max(now[pod], self._last.get(pod, ("", 0)))
                yield f"{pod} {text}"

    def _begun(self) -> frozenset[str]:
        """The pods that have begun: the others have no log."""
        return KUBECTL.ask(["kubectl", "get", "pods", *self._mine, "--output=json"], _begun_in)

    def _command(self) -> list[str]:
        """Without the last of its flags, one pod that cannot be asked would hide what all others say."""
        return ["kubectl", "logs", *self._mine, "--prefix", "--timestamps", "--tail=-1", "--ignore-errors"]


def _begun_in(said: str) -> frozenset[str]:
    pods = json.loads(said)["items"] if said.strip() else []
    return frozenset(pod["metadata"]["name"] for pod in pods if pod["status"].get("phase", "Pending") != "Pending")


def _read(stream: TextIO, lines: Queue[str | None]) -> None:
    for line in stream:
        lines.put(line.rstrip("\n"))
    lines.put(None)


def _next(lines: Queue[str | None]) -> str | None:
    """The next line, an empty one where none comes for a moment; None at the end."""
    try:
        return lines.get(timeout=1.0)
    except Empty:
        return ""
