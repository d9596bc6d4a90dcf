"""Finds the rank that hangs: one that is stopped or locked up, or the one that all others wait for."""

from __future__ import annotations

import time
from dataclasses import dataclass

from launcher.linux import Activity, activity_of
from launcher.recipe.schema import Recipe
from launcher.rundir.failure import AGENT, FailureRecord
from launcher.rundir.heartbeat import Beat, read_beats
from launcher.rundir.layout import RunDirectory

_LOOK = 0.25  # seconds between two looks
_LEAST_HEARTBEAT = 2.0  # a busy machine may hold up a few beats
_BUSY = 0.05  # of a core: a process that uses more than this works, though its threads may have to wait
_BEFORE_THE_OTHERS = 0.9  # of the time after which ranks that wait give up, and would be taken for the cause
HANG = "Hang"  # stands where an exception would


@dataclass(frozen=True)
class Limits:
    """When a rank counts as hanging.

    Attributes:
        heartbeat: seconds without a sign of life; 0 never.
        stall: seconds in which no rank gets further; 0 never.
        saving: the same while a checkpoint is written; 0 never.
    """

    heartbeat: float = 0.0
    stall: float = 0.0
    saving: float = 0.0

    @staticmethod
    def of(recipe: Recipe, world_size: int) -> Limits:
        """The limits of a recipe for so many ranks.

        Ranks that wait for one that hangs end by themselves after `parallel.timeout`, and would then look like the
        cause: the one that they wait for is found before. For one that writes a checkpoint they wait without an end.
        """
        guard, waiting = recipe.guard, _BEFORE_THE_OTHERS * recipe.parallel.timeout
        return Limits(guard.heartbeat, min(guard.stall, waiting) if world_size > 1 else guard.stall, guard.stall)


@dataclass
class _Rank:
    """What was seen of a rank: its last new beat, what its process had used by then, and seconds since."""

    beat: Beat
    used: float
    silence: float = 0.0


class Watch:
    """Looks at the beats of the ranks.

    Time is that of this process, and only while it looks: where all processes were halted and go on (a machine that
    was put to sleep), nobody has hung.

    Args:
        run: the directory of the run.
        limits: when a rank counts as hanging.
        node: this launcher, where there are several. What the processes of another machine do is for its launcher to
            see; how far their ranks are is told here too.
    """

    def __init__(self, run: RunDirectory, limits: Limits, node: str = "") -> None:
        self._run = run
        self._node = node
        self._limits = limits
        self._ranks: dict[int, _Rank] = {}
        self._marks: list[tuple[int, int]] = []
        self._idle = 0.0
        self._agent_stopped = 0.0
        self._looked = time.monotonic()

    def hanging(self, agent: int) -> FailureRecord | None:
        """The rank that hangs, or the agent, with why it is said to; None while there is none.

        Args:
            agent: the process that started the ranks.
        """
        since = time.monotonic() - self._looked
        if since < _LOOK or not (self._limits.heartbeat or self._limits.stall):
            return None
        self._looked += since
        passed = min(since, 2 * _LOOK)
        beats = read_beats(self._run)
        own = (beat for beat in beats if beat.node == self._node)
        seen = {beat: activity for beat in own if (activity := activity_of(beat.pid))}
        others = [beat for beat in beats if beat.node != self._node]
        return self._halted(agent, passed) or self._silent(seen, passed) or self._stalled([*seen, *others], passed)

    def processes(self) -> list[int]:
        """The processes of the ranks."""
        return [rank.beat.pid for rank in self._ranks.values()]

    def _halted(self, agent: int, passed: float) -> FailureRecord | None:
        """The agent where it was stopped: the ranks train on, but whatever happened to them, it would not see it."""
        activity = activity_of(agent)
        self._agent_stopped = self._agent_stopped + passed if activity and activity.stopped else 0.0
        if not self._limits.heartbeat or self._agent_stopped < self._heartbeat:
            return None
        message = f"its process was stopped, as by SIGSTOP, for {self._agent_stopped:.0f} s"
        return FailureRecord(AGENT, time.time_ns(), HANG, message, None)

    @property
    def _heartbeat(self) -> float:
        return max(self._limits.heartbeat, _LEAST_HEARTBEAT)

    def _silent(self, seen: dict[Beat, Activity], passed: float) -> FailureRecord | None:
        """The rank that gives no sign of life.

        A stopped process does not. One that computes in C without letting Python go does, by the time that it uses:
        that may go on for long and be right. Until its first update a rank opens its data and may wait for a disk, and
        so it may where it saves: only a stopped one is found there.
        """
        silent = []
        for beat, activity in seen.items():
            rank = self._ranks.get(beat.rank)
            if rank is None or (rank.beat.pid, rank.beat.beats) != (beat.pid, beat.beats):
                self._ranks[beat.rank] = _Rank(beat, activity.seconds)
                continue
            rank.silence += passed
            for_disk = not beat.update or beat.phase == "saving"
            locked_up = not for_disk and activity.sleeps and activity.seconds - rank.used < _BUSY * rank.silence
            if rank.silence >= self._heartbeat and (activity.stopped or locked_up):
                silent.append((rank.silence, beat, activity))
        if not self._limits.heartbeat or not silent:
            return None
        silence, beat, activity = max(silent, key=lambda found: found[0])
        why = "its process was stopped, as by SIGSTOP" if activity.stopped else "its process does nothing"
        return _record(beat, f"no sign of life for {silence:.0f} s: {why}")

    def _stalled(self, beats: list[Beat], passed: float) -> FailureRecord | None:
        """The rank that is furthest behind when none gets any further; who has no update to come, ends in its time."""
        beats = [beat for beat in beats if beat.phase != "ending"]
        marks = [(beat.rank, beat.marks) for beat in beats]
        if marks != self._marks or not beats or not all(beat.update for beat in beats):
            self._marks, self._idle = marks, 0.0
            return None
        self._idle += passed
        limit = self._limits.saving if any(beat.phase == "saving" for beat in beats) else self._limits.stall
        if not limit or self._idle < limit:
            return None
        last = min(beats, key=lambda beat: beat.position)
        others = "; the other ranks wait for it" if any(beat.position > last.position for beat in beats) else ""
        if not others and len({beat.node for beat in beats}) > 1:
            others = "; all ranks wait for each other, as they do when a link is cut"
        return _record(last, f"no progress for {self._idle:.0f} s{others}")


def _record(beat: Beat, message: str) -> FailureRecord:
    return FailureRecord(beat.rank, time.time_ns(), HANG, message, beat.update)
