"""What the launcher that leads an elastic run tells the others: where to meet, and who is to come."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from launcher.rundir.layout import RunDirectory, write_atomically


@dataclass(frozen=True)
class Round:
    """A time in which the run has the same machines; whenever one comes or goes, the next one begins.

    Attributes:
        number: of the round, the generation of its launch; below 0 before the run has a plan.
        endpoint: host and port where its agents meet.
        nodes: names of the launchers that take part; none while the next round is prepared, and what still runs of the
            last one is to end.
        exit_code: of the run, when it has ended for all.
        after: the update that the run goes on after.
        launch: whose round it is, where all machines of a launch were started together.
    """

    number: int
    endpoint: str = ""
    nodes: tuple[str, ...] = ()
    exit_code: int | None = None
    after: int | None = None
    launch: str = ""

    def meeting_of(self, run: RunDirectory) -> str:
        """What its agents call their meeting, and no others."""
        return ".".join(filter(None, (run.path.name, self.launch, str(self.number))))

    def publish(self, run: RunDirectory) -> None:
        """Tell the other launchers."""
        write_atomically(run.round, json.dumps(asdict(self)))

    @staticmethod
    def read(run: RunDirectory) -> Round | None:
        """What is told; None while nobody leads the run."""
        try:
            found = json.loads(run.round.read_text(encoding="utf-8"))
            return Round(**{**found, "nodes": tuple(found["nodes"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None
