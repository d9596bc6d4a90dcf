"""What happens when memory runs out in a window: the run ends with the cure, or takes it again in smaller parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from launcher.plan.fitting import FoundMicro, since_then
from launcher.plan.planner import Plan, with_found
from launcher.plan.windows import Window
from launcher.recipe.fitting import hindrances
from launcher.train.accumulation import LoadedWindow
from launcher.train.job import Job
from launcher.train.kept_state import KeptBuffers, RandomState
from launcher.train.out_of_memory import MemoryRanOutError, NoMemoryError, let_go, on_any_rank, ran_out
from launcher.words import plural

_T = TypeVar("_T")


@dataclass(frozen=True)
class Halved:
    """The micro-batch was halved for the rest of the run.

    Attributes:
        plan: the plan of the run from here on.
        window: the window that is taken again, as it was.
        size: samples of its largest micro-batch, of which there is half now.
        ranks: those that ran out of memory in it.
    """

    plan: Plan
    window: Window
    size: int
    ranks: Sequence[int]

    def __str__(self) -> str:
        who = f"{'ranks' if len(self.ranks) > 1 else 'rank'} {', '.join(map(str, self.ranks))}"
        return (
            f"{who} ran out of memory in update {self.window.update + 1:,} with {plural(self.size, 'sample')}: from "
            f"here on micro-batches have {self.plan.found[-1].micro:,}, and the update is made again with the same "
            f"{plural(self.window.samples, 'sample')}"
        )


class Memory(Protocol):
    """Takes windows through their micro-steps, whether they fit or not."""

    def take(self, loaded: LoadedWindow, micro_steps: Callable[[LoadedWindow], _T]) -> tuple[LoadedWindow, _T]:
        """Take a window through its micro-steps, before anything of it is reduced.

        Args:
            loaded: the window with this rank's micro-batches.
            micro_steps: runs them.

        Returns:
            The window as it was taken in the end, and what came of it.
        """
        ...

    def evaluate(self, batch: int, own: Callable[[int], _T]) -> _T:
        """Evaluate on this rank's part of the data, before the ranks put theirs together.

        Args:
            batch: samples at a time, or fewer.
            own: does it, with so many at a time.
        """
        ...


def memory_of(job: Job, halved: Callable[[Halved], None], say: Callable[[str], None]) -> Memory:
    """What the recipe of a job asks for.

    Args:
        job: this rank's job.
        halved: told when the micro-batch is halved, before the window is taken again; on every rank.
        say: told of what else is halved, on every rank.
    """
    return HalvesMicroBatch(job, halved, say) if job.plan.recipe.batch.halves else EndsRun(job)


class EndsRun:
    """Says what to do, and ends.

    Args:
        job: this rank's job.
    """

    def __init__(self, job: Job) -> None:
        self._recipe = job.plan.recipe

    def take(self, loaded: LoadedWindow, micro_steps: Callable[[LoadedWindow], _T]) -> tuple[LoadedWindow, _T]:
        """Take it, or end.

        Raises:
            MemoryRanOutError: it does not fit.
        """
        size = _size_of(loaded.window)
        cure = "Use shorter samples or a smaller model"
        if size > 1:
            hindered = any(True for _ in hindrances(self._recipe))
            others = "" if hindered else ", batch.micro=auto or batch.on_out_of_memory=halve"
            cure = f"Set batch.micro={size // 2}{others}: the global batch stays"
        with told(f"a micro-step of {plural(size, 'sample')}", cure):
            return loaded, micro_steps(loaded)

    def evaluate(self, batch: int, own: Callable[[int], _T]) -> _T:
        """Evaluate, or end.

        Raises:
            MemoryRanOutError: it does not fit.
        """
        cure = "Use shorter samples or a smaller model"
        if batch > 1:
            cure = "Set a smaller batch.micro, which evaluations take too: the global batch stays"
        with told(f"an evaluation of {plural(batch, 'sample')} at a time", cure):
            return own(batch)


class HalvesMicroBatch:
    """Takes the same window again with half the micro-batch, on every rank, when memory ran out on any.

    The ranks agree after each window's micro-steps, and before its gradients are reduced. So no micro-step may reduce.

    Args:
        job: this rank's job; its engine reduces after the last backward.
        halved: told when the micro-batch is halved.
        say: told when the batch of evaluations is.
    """

    def __init__(self, job: Job, halved: Callable[[Halved], None], say: Callable[[str], None]) -> None:
        self._job = job
        self._plan = job.plan
        self._halved = halved
        self._say = say
        self._evaluated: int | None = None  # samples at a time that evaluations were halved to
        self._buffers = KeptBuffers(job.engine.model)

    def take(self, loaded: LoadedWindow, micro_steps: Callable[[LoadedWindow], _T]) -> tuple[LoadedWindow, _T]:
        """Take it until it fits.

        Raises:
            NoMemoryError: not even one sample fits.
        """
        engine = self._job.engine
        self._buffers.keep()
        before = RandomState.of(engine.device)
        while True:
            done = _tried(partial(micro_steps, loaded))
            self._job.progress.has_computed()
            if not on_any_rank(engine, not done):
                return loaded, done[0]
            failed = not done
            done.clear()
            let_go(engine.model, engine.device)
            loaded = self._in_halves(loaded.window, failed)
            self._buffers.restore()
            before.restore(engine.device)

    def evaluate(self, batch: int, own: Callable[[int], _T]) -> _T:
        """Evaluate, with half as many samples at a time from here on where memory ran out on any rank, until it fits.

        Raises:
            NoMemoryError: not even one sample fits.
        """
        engine = self._job.engine
        size = min(batch, self._evaluated or batch)
        self._buffers.keep()
        before = RandomState.of(engine.device)
        while True:
            done = _tried(partial(own, size))
            self._job.progress.has_evaluated()
            if not on_any_rank(engine, not done):
                return done[0]
            done.clear()
            let_go(engine.model, engine.device)
            self._evaluated = self._half_evaluated(size)
            size = self._evaluated
            self._buffers.restore()
            before.restore(engine.device)

    def _half_evaluated(self, size: int) -> int:
        if size == 1:
            raise NoMemoryError(
                "an evaluation does not fit with one sample at a time: nothing smaller can be tried. Use shorter "
                "samples or a smaller model"
            )
        self._say(
            f"an evaluation ran out of memory with {plural(size, 'sample')} at a time: from here on evaluations take "
            f"{size // 2:,} at a time, and this one is made again"
        )
        return size // 2

    def _in_halves(self, window: Window, failed: bool) -> LoadedWindow:
        engine = self._job.engine
        ranks = [rank for rank, also in enumerate(engine.gather(failed)) if also]
        size = _size_of(window)
        if size == 1:
            raise NoMemoryError(
                f"update {window.update + 1:,} does not fit with one sample in a micro-step: nothing smaller can be "
                "tried. Use shorter samples or a smaller model"
            )
        found = since_then(self._plan.found, self._plan.batch.micro, FoundMicro(since=window.update, micro=size // 2))
        self._plan = with_found(self._plan, found)
        self._halved(Halved(self._plan, window, size, ranks))
        self._job.go_on(self._plan, window.update)
        return next(iter(self._job.windows))


def _tried(run: Callable[[], _T]) -> list[_T]:
    """What comes of it; nothing where memory ran out."""
    try:
        return [run()]
    except Exception as error:
        if not ran_out(error):
            raise
    return []


@contextmanager
def told(what: str, cure: str) -> Iterator[None]:
    """Say in a sentence where memory ran out.

    Args:
        what: what did not fit.
        cure: what to do about it.

    Raises:
        MemoryRanOutError: it did.
    """
    try:
        yield
    except Exception as error:
        if not ran_out(error):
            raise
        said = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
        raise MemoryRanOutError(f"memory ran out in {what} ({said}). {cure}") from error


def _size_of(window: Window) -> int:
    """Samples of the largest micro-batch of a window."""
    return min(window.micro, window.samples)
