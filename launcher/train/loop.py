"""The training loop.

for each window of the plan:
    (before the first: hold the compiled model against what it was compiled from, if the recipe compiles)
    set the learning rate of the update
    for each micro-batch of this rank: forward, backward (gradients reduced at the last one)
    (where memory ran out: again with half the micro-batch, if the recipe says so)
    clip the reduced gradient, step, clear the gradients
    compare the parameters of the ranks, if due
    evaluate, if due (and if it is asked to stop meanwhile: keep the state, and evaluate when the run goes on)
    log earlier updates, whose numbers have arrived
    keep the state, if due
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from time import perf_counter

import torch
from torch import Tensor

from launcher.plan.planner import Plan
from launcher.plan.windows import Window
from launcher.rundir.rows import STEP
from launcher.train.accumulation import LoadedWindow
from launcher.train.compiled_gradient import hold_to_written
from launcher.train.engines.base import Engine, Reductions
from launcher.train.evaluation import MOST, Evaluation
from launcher.train.job import Job
from launcher.train.measurement import Measurement
from launcher.train.memory import Halved, Memory, memory_of, told
from launcher.train.noise_scale import parts_of, weighted_squares
from launcher.train.readout import Readout
from launcher.train.saving import NoSaver, Saver
from launcher.train.step_result import StepResult, named
from launcher.train.stepping import Stepper
from launcher.train.task import SampleSource

Say = Callable[[str], None]


def train(
    job: Job,
    log: Callable[[StepResult], None],
    started: Callable[[int], None],
    saver: Saver | None = None,
    halved: Callable[[Halved], None] | None = None,
    say: Say | None = None,
) -> bool:
    """Run the updates of a job.

    Args:
        job: this rank's job.
        log: takes each update's result, in order, on every rank; one update late, or a tenth of a second.
        started: told the number of each update (from 1) before it begins, for failure records.
        saver: keeps the state now and then, and at the end of the run or where it was asked to stop.
        halved: told on every rank when the micro-batch is halved, where the recipe asks for it.
        say: takes what the user should read, on every rank.

    Returns:
        Whether the run went to its end; False if a rank was asked to stop.

    Raises:
        DivergedError: the ranks hold different parameters.
        NonFiniteError: a loss, a gradient or the state is not finite.
        MemoryRanOutError: memory ran out.
        NoMemoryError: memory ran out, and nothing smaller can be tried.
        NotKeptError: the state after the last update could not be kept.
        RequestError: the compiled model has another gradient than the model.
    """
    memory = memory_of(job, halved or _unheard, say or _unheard)
    record = _Record(job, log, saver)
    readout = record.readout
    unsaved: Window | None = None
    unchecked = job.plan.recipe.train.compile
    ended = perf_counter()
    for loaded, waited in _waited_for(job):
        if unchecked and not loaded.empty:
            hold_to_written(job, loaded, say or _unheard)
            unchecked = False
            ended = perf_counter()  # nor is this a part of the update
        unsaved = window = loaded.window
        job.progress.begins_update(window.update + 1)
        started(window.update + 1)
        measurement = _update(job, memory, loaded)
        job.guard.after(window.update + 1)
        measurement.data_seconds = waited
        measurement.seconds = perf_counter() - ended
        ended = perf_counter()
        if evaluation_due(job.plan, window) and job.eval_data is not None:
            evaluation = _evaluated(job, job.eval_data, memory, measurement.window)  # the window as it was taken
            if evaluation is None:
                record.keep_unevaluated(window, measurement)
                return False
            measurement.evaluation = evaluation
            ended = perf_counter()  # an evaluation is no part of an update
        record.take(readout.add(measurement))
        if readout.stop:
            break
        if record.is_due(window):
            record.keep(window)
            unsaved = None
            ended = perf_counter()  # nor is a checkpoint
    if unsaved is not None:
        record.keep(unsaved)
    if not record.is_kept() and not readout.stop:
        raise NotKeptError(
            "the end of the run could not be kept, and updates since the last checkpoint are to be made again. Make "
            "room for a checkpoint, and go on by --resume auto"
        )
    return not readout.stop


class _Record:
    """What is logged of the updates, and the state that is kept.

    Attributes:
        readout: of what the updates measured.
    """

    def __init__(self, job: Job, log: Callable[[StepResult], None], saver: Saver | None) -> None:
        self._job = job
        self._log = log
        self._keeps = saver is not None
        self._saver = saver or NoSaver()
        self.readout = Readout(job.engine, job.results, job.should_stop, self._saver.wishes)

    def take(self, results: Iterable[StepResult]) -> None:
        """Log what updates did; it must be finite."""
        for result in results:
            self._log(result)
            self._job.finite.after(result)

    def is_due(self, window: Window) -> bool:
        """Whether the state is to be kept after a window; the same on every rank."""
        return self.readout.save or self._saver.due(window.update + 1)

    def keep(self, window: Window) -> None:
        """Keep the state after a window, and log all before it."""
        self.take(self.readout.flush())
        self._save(window)

    def keep_unevaluated(self, window: Window, measurement: Measurement) -> None:
        """Keep the state after a window whose evaluation was left, with its row, which is logged when that is made."""
        *before, last = [*self.readout.add(measurement), *self.readout.flush()]
        self.take(before)
        self._job.finite.after(last)
        self._save(window, last)
        if not (self._keeps and self.is_kept()):  # the row is all that there is of it
            self._log(last)

    def is_kept(self) -> bool:
        """Whether what was last to be kept is; the same on every rank."""
        return self._saver.finish()

    def _save(self, window: Window, unlogged: StepResult | None = None) -> None:
        job, update = self._job, window.update + 1
        apart = job.engine.gather if job.engine.shards > 1 else None
        job.finite.before_keeping(job.engine.model, update, apart)
        job.guard.before_keeping(update)
        self._saver.save(window, unlogged.row() if unlogged else None)


def catch_up(job: Job, row: Mapping[str, float], log: Callable[[Mapping[str, float]], None], say: Say) -> bool:
    """Evaluate after the update that a run goes on after, and log its row, where a launch before was stopped meanwhile.

    Args:
        job: this rank's job, with the state after the update.
        row: of the update, without the evaluation.
        log: takes it, with the evaluation, on every rank.
        say: takes what the user should read, on every rank.

    Returns:
        Whether it was done; False if a rank was asked to stop.
    """
    window = next(job.plan.windows(int(row[STEP]) - 1))
    evaluation: Mapping[str, float] | None = {}
    if evaluation_due(job.plan, window) and job.eval_data is not None:  # not so in a fork, perhaps
        evaluation = _evaluated(job, job.eval_data, memory_of(job, _unheard, say), window)
    if evaluation is None:
        return False
    log({**row, **named(evaluation)})
    return True


class NotKeptError(RuntimeError):
    """All updates were made, and what came of the last ones is lost: the run is not done."""


_PATIENCE = 5.0  # seconds that an evaluation goes on after a signal, to come to its end: most are short
_CURE_OF_STEP = "Set a smaller batch.micro, or share the model out, as by parallel.engine=fsdp"


def _unheard(said: object) -> None:
    """Where nobody keeps it."""


def _evaluated(job: Job, data: SampleSource, memory: Memory, window: Window) -> Mapping[str, float] | None:
    """The evaluation after a window; None if a rank was asked to stop.

    What fits in training fits here; more might not, as the scores of large vocabularies weigh as much.
    """
    patience = min(_PATIENCE, job.plan.recipe.launch.grace / 4)
    evaluation = Evaluation(job.task, data, job.engine, job.precision, job.progress, job.should_stop, patience)
    return evaluation.means(memory.evaluate(min(MOST, window.micro), evaluation.of_rank))


def _update(job: Job, memory: Memory, loaded: LoadedWindow) -> Measurement:
    engine, stepper, update = job.engine, job.stepper, loaded.window.update
    rate = stepper.rate_of(update)
    parts = 0
    if loaded.empty:
        losses, reductions = torch.zeros(len(job.weights), dtype=torch.float64, device=engine.device), Reductions()
        square = noise = stepper.skip()
    else:
        loaded, (losses, parts) = memory.take(loaded, partial(_micro_steps, job))
        with told("the optimizer step", _CURE_OF_STEP):
            reductions = engine.reduce()
            noise = _noise(loaded, engine, stepper) if parts > 1 else losses.new_zeros(())
            square = stepper.step(update)
    return Measurement(
        window=loaded.window,
        totals=loaded.totals,
        sums=torch.cat((losses, torch.stack((square, noise)))),
        parts=parts,
        learning_rate=rate,
        micro_steps=len(loaded.micro_batches),
        skipped=stepper.skipped,
        reductions=reductions,
    )


def _micro_steps(job: Job, loaded: LoadedWindow) -> tuple[Tensor, int]:
    """Take a window forward and backward: this rank's part of its losses, and the parts that tell the noise scale."""
    parts = _parts_to_measure(job, loaded.window)
    job.engine.watch_parts(parts > 1)
    return job.accumulation.accumulate(loaded), parts


def _noise(loaded: LoadedWindow, engine: Engine, stepper: Stepper) -> Tensor:
    """What this rank adds to the measurement of the noise scale, of gradients that are not unscaled yet."""
    return weighted_squares(loaded, engine) / stepper.loss_scale().square()


def _parts_to_measure(job: Job, window: Window) -> int:
    """The parts whose gradients tell the noise scale in this update; 0 when it is not measured."""
    every = job.plan.recipe.noise_scale.every
    due = every and (window.update + 1) % every == 0
    return parts_of(window) if due and job.engine.sees_parts else 0


def _waited_for(job: Job) -> Iterator[tuple[LoadedWindow, float]]:
    """The windows, with the seconds spent waiting for the data of each."""
    windows = iter(job.windows)
    while True:
        since = perf_counter()
        try:
            loaded = next(windows)
        except StopIteration:
            return
        yield loaded, perf_counter() - since


def evaluation_due(plan: Plan, window: Window) -> bool:
    """Whether to evaluate after a window: at the end of the run, and as often as the recipe says."""
    every, update = plan.recipe.eval.every, window.update + 1
    if update == plan.length.updates:
        return True
    if isinstance(every, int):
        return update % every == 0
    return every == "epoch" and window.ends_epoch
