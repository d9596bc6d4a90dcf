"""Finding the micro-batch that fits: real forwards, backwards and optimizer steps on real samples, all taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic

import torch

from launcher.plan.fitting import FoundMicro, even_micro, find_most
from launcher.plan.windows import Window
from launcher.train.accumulation import Accumulation, LoadedWindow, MicroBatchData
from launcher.train.compiling import is_compiled
from launcher.train.engines.single import SingleEngine
from launcher.train.job import Job
from launcher.train.kept_state import KeptTraining
from launcher.train.large_samples import largest_samples
from launcher.train.loader import to_device
from launcher.train.optimizer import set_learning_rate
from launcher.train.out_of_memory import NoMemoryError, let_go, on_any_rank, ran_out
from launcher.train.samples import KeyedBatches, Wanted
from launcher.train.task import SampleSource
from launcher.train.task_losses import TaskLosses
from launcher.words import duration, plural

Say = Callable[[str], None]
_SILENT = 2.0  # seconds that a search may take without a word
_STEPS = 2  # micro-steps of a try: the second one needs room for the gradients of the first


def find_micro(job: Job, data: SampleSource, first_update: int, say: Say) -> FoundMicro:
    """The micro-batch that fits on every rank, and divides the window well.

    No try reduces gradients, and after each the ranks tell each other whether it fitted: one that runs out of memory
    alone leaves no other waiting. Parameters, buffers, optimizer and random numbers are afterwards as they were.

    Args:
        job: this rank's job, before its first update; its optimizer remembers nothing yet.
        data: the training data.
        first_update: the update that the job begins with, from 0.
        say: takes a sentence that the user should read.

    Raises:
        NoMemoryError: not even one sample fits.
    """
    began = monotonic()
    world_size = job.engine.world_size
    most = max(stage.global_ for stage in job.plan.ahead)
    kept = KeptTraining(job.engine.model, job.stepper.optimizer, job.engine.device)
    tries = _Tries(job, data, _Patience(say).tell)
    try:
        fits, too_large = find_most(most, world_size, tries.fits)
    finally:
        let_go(job.engine.model, job.engine.device)
        kept.restore()
        if is_compiled(job.engine.model):
            torch.compiler.reset()  # what was compiled for many sizes is slower than for the one that is taken
    if not fits:
        raise NoMemoryError(
            "not even one sample fits: its forward, backward and optimizer step run out of memory. Use a smaller model "
            "or shorter samples, or an engine that shares the model out among the ranks, such as parallel.engine=fsdp"
        )
    micro = even_micro(job.plan.batch.global_, world_size, fits)
    does_not = "" if too_large is None else f", {too_large:,} do not"
    why = "" if micro == fits else f"; taking {micro:,}, for windows of equal parts or of no more of them"
    say(f"micro-batch: {plural(fits, 'sample')} fit{does_not}{why} ({duration(monotonic() - began)})")
    return FoundMicro(since=first_update, micro=micro, fits=fits, too_large=too_large)


class _Tries:
    """Tries micro-batches of a size, on the largest samples.

    Args:
        job: this rank's job.
        data: the training data.
        tell: told what is done, again and again.
    """

    def __init__(self, job: Job, data: SampleSource, tell: Say) -> None:
        recipe = job.plan.recipe
        self._job = job
        self._tell = tell
        self._alone = SingleEngine(job.engine.model, job.engine.device)
        self._alone.hold(job.stepper.optimizer)
        self._losses = TaskLosses(job.task, recipe.multitask)
        self._max_norm = recipe.train.max_grad_norm
        self._batches = KeyedBatches(job.task, data, recipe.train.seed)
        self._accumulation = Accumulation(
            self._alone,
            self._losses,
            job.weights,
            recipe.multitask.backward,
            job.precision,
            job.stepper.scale,
            job.progress,
        )
        self._largest = self._samples(data)
        self._stepped = False

    def _samples(self, data: SampleSource) -> Sequence[int]:
        batch = self._job.plan.batch

        def looked(examined: int) -> None:
            self._tell(f"batch.micro=auto: looking for the largest samples, {examined:,} seen")

        return largest_samples(self._job.task, data, self._batches, batch.global_, looked)

    def fits(self, size: int) -> bool:
        """Whether micro-batches of so many samples fit on every rank."""
        self._tell(f"batch.micro=auto: trying {plural(size, 'sample')}")
        failed = False
        try:
            self._run(size)
        except Exception as error:
            if not ran_out(error):
                raise
            failed = True
        let_go(self._job.engine.model, self._job.engine.device)
        return not on_any_rank(self._job.engine, failed)

    def _run(self, size: int) -> None:
        """Micro-steps and an optimizer step, twice the first time: then the optimizer has what it remembers."""
        indices = [self._largest[place % len(self._largest)] for place in range(size)]
        (batch,) = self._batches.here([Wanted(0, indices)])
        # The largest samples may have no items (a prompt without room for its answer), and are tried all the same.
        items = {name: max(each, 1) for name, each in self._losses.items(batch, size).items()}
        micro_batch = MicroBatchData(to_device(self._job.engine.device)(batch), items)
        samples = _STEPS * size
        window = Window(0, 0, 0, samples, size, 1, samples)
        loaded = LoadedWindow(window, (micro_batch,) * _STEPS, tuple(_STEPS * each for each in items.values()))
        for _ in range(1 if self._stepped else 2):
            self._accumulation.accumulate(loaded)
            self._step()
        self._stepped = True
        if self._job.engine.device.type == "cuda":
            torch.cuda.synchronize(self._job.engine.device)

    def _step(self) -> None:
        """A step that takes the memory of a real one and leaves numbers that the next try can go on with."""
        optimizer = self._job.stepper.optimizer
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.zero_()
        set_learning_rate(optimizer, 0.0)
        self._alone.step(optimizer, torch.amp.GradScaler(self._job.engine.device.type, enabled=False), self._max_norm)


class _Patience:
    """Passes on what is said, once it has been silent for long enough.

    Args:
        say: takes a sentence.
    """

    def __init__(self, say: Say) -> None:
        self._say = say
        self._said_at = monotonic()

    def tell(self, what: str) -> None:
        """Say it, unless something was said just now."""
        if monotonic() - self._said_at >= _SILENT:
            self._said_at = monotonic()
            self._say(what)
