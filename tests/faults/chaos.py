"""Trains a run to its end while one launch of it after the other is killed, each in another way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from launcher.rundir.generation import read_generation
from launcher.rundir.layout import RunDirectory
from tests.processes import launcher
from tests.tasks.threats import Event, Threat, What, events, write_threats

KILLS = 8
UPDATES = 48  # more than so many kills need, so that all of them come true
SETTINGS = (f"train.updates={UPDATES}", "checkpoint.every=2", "guard.heartbeat=2")
_LONGEST = 5  # updates that a launch makes before its threat comes true, at most
_LOSSES = {1: 5, 2: 2, 3: 1, 4: 1}  # world size → losses of a rank in an update, at least
_USES = 20  # of files, for two checkpoints
_WHAT: dict[What, int] = {  # with how often it comes
    "kill rank": 6,
    "kill writer": 4,
    "kill agent": 2,
    "kill keeper": 2,
    "kill launcher": 3,
    "end launcher": 3,
    "stop rank": 1,
}
_CODES: dict[What | None, tuple[int, ...]] = {"kill launcher": (-9,), "end launcher": (75,), None: (0,)}


@dataclass
class Story:
    """What befell a run: to be read when it did not end well, and to be told again with the same seed.

    Attributes:
        seed: of the random choices.
        lines: each start of the command with what came of it.
        events: what its processes have written down.
    """

    seed: int
    lines: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """Threats that came true."""
        return sum(event.threat is not None for event in self.events)

    def recoveries(self) -> list[float]:
        """Seconds from each threat that came true to the next time that rank 0 computed a loss."""
        began = [event for event in self.events if event.threat is None]
        return [
            min(begin.time for begin in began if begin.launch > event.launch) - event.time
            for event in self.events
            if event.threat
        ]

    def last(self, launch: int) -> What | None:
        """What befell a launch, if anything did."""
        return next((event.threat.what for event in self.events if event.threat and event.launch == launch), None)

    def __str__(self) -> str:
        return "\n".join([f"seed {self.seed}", *self.lines, *map(str, self.events)])


def live_through(
    recipe: str, run: RunDirectory, seed: int, worlds: Sequence[int], kills: int = KILLS, engine: Sequence[str] = ()
) -> Story:
    """Launch a run until it is done.

    Ranks, threats and the like of a launch follow from the seed and the number of the launch, so that only how far a
    launch gets is left to the clock.
    """
    story = Story(seed)
    threats = run.path.with_name(f"{run.path.name}.threats")
    for _ in range(kills + 1):
        first = read_generation(run) + 1
        draw = Random(f"{seed} {first}")
        world = draw.choice(worlds)
        drawn = [_threat(Random(f"{seed} threat {launch}"), world) for launch in range(1, kills + 1)]
        job = (
            f"launch.nproc_per_node={world}",
            f"launch.restarts={draw.choice((0, 3, 3))}",
            f"launch.method={draw.choice(('torchrun', 'torchrun', 'torchrun', 'accelerate'))}",
            f"checkpoint.background={draw.choice(('true', 'false'))}",
        )
        where = ("--runs", str(run.path.parent), "--run-id", run.path.name, "--resume", "auto")
        environment = write_threats(threats, drawn)
        done = launcher("run", recipe, *SETTINGS, *engine, *job, *where, env=environment, timeout=600)
        story.lines.append(f"launch {first}: {' '.join(job)}\n{done.returncode}\n{done.stdout}{done.stderr}")
        story.events = events(threats)
        last = next(
            (event.threat.what for event in story.events if event.threat and event.launch == read_generation(run)), None
        )
        assert done.returncode in _CODES.get(last, (3,)), f"{story}"
        if done.returncode == 0:
            return story
    raise AssertionError(f"it does not end\n{story}")


def _threat(draw: Random, world: int) -> Threat:
    """What befalls a launch on so many ranks."""
    (what,) = draw.choices(list(_WHAT), list(_WHAT.values()))
    if what == "kill writer":
        return Threat(what, 0, draw.randint(1, _USES))
    rank, moment = draw.randrange(12), draw.random()
    return Threat(what, rank, 1 + int(moment * _LONGEST * _LOSSES[world]))
