"""The training loop.

for each window of the plan:
    set the learning rate of the update
    for each micro-batch of this rank: forward, backward (gradients reduced at the last one)
    clip the reduced gradient, step, clear the gradients
    evaluate, if due
    log earlier updates, whose numbers have arrived
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter

from launcher.plan.planner import Plan
from launcher.plan.windows import Window
from launcher.train.accumulator import MicroBatchData
from launcher.train.evaluation import evaluate
from launcher.train.job import Job
from launcher.train.measurement import Measurement, peak_memory
from launcher.train.optimizer import set_learning_rate
from launcher.train.readout import Readout
from launcher.train.step_result import StepResult


def train(job: Job, log: Callable[[StepResult], None], started: Callable[[int], None]) -> bool:
    """Run the updates of a job.

    Args:
        job: this rank's job.
        log: takes each update's result, in order, on every rank; one update late, or a tenth of a second.
        started: told the number of each update (from 1) before it begins, for failure records.

    Returns:
        Whether the run went to its end; False if a rank was asked to stop.
    """
    readout = Readout(job.engine, job.should_stop, job.plan.length.data_samples or 1)
    ended = perf_counter()
    for window, share, waited in _waited_for(job):
        started(window.update + 1)
        measurement = _update(job, window, share)
        measurement.data_seconds = waited
        measurement.seconds = perf_counter() - ended
        ended = perf_counter()
        if evaluation_due(job.plan, window) and job.eval_data is not None:
            measurement.evaluation = evaluate(job.task, job.eval_data, job.engine, job.precision)
            ended = perf_counter()  # an evaluation is no part of an update
        for result in readout.add(measurement):
            log(result)
        if readout.stop:
            break
    for result in readout.flush():
        log(result)
    return not readout.stop


def _update(job: Job, window: Window, share: list[MicroBatchData]) -> Measurement:
    rate = job.plan.learning_rate
    set_learning_rate(job.optimizer, rate.factor(window.update))
    loss = job.accumulator.accumulate(window, share)
    reductions = job.engine.take_reductions()
    grad_square = job.engine.clip(job.plan.recipe.train.max_grad_norm)
    job.optimizer.step()
    job.optimizer.zero_grad(set_to_none=True)
    return Measurement(
        window=window,
        loss=loss,
        grad_square=grad_square,
        learning_rate=rate.at(window.update),
        micro_steps=sum(1 for micro_batch in share if micro_batch.samples),
        reductions=reductions,
        peak_bytes=peak_memory(job.engine.device),
    )


def _waited_for(job: Job) -> Iterator[tuple[Window, list[MicroBatchData], float]]:
    """The windows, with the seconds spent waiting for the data of each."""
    windows = iter(job.windows)
    while True:
        since = perf_counter()
        try:
            window, share = next(windows)
        except StopIteration:
            return
        yield window, share, perf_counter() - since


def evaluation_due(plan: Plan, window: Window) -> bool:
    """Whether to evaluate after a window: at the end of the run, and as often as the recipe says."""
    every, update = plan.recipe.eval.every, window.update + 1
    if update == plan.length.updates:
        return True
    if isinstance(every, int):
        return update % every == 0
    return every == "epoch" and window.ends_epoch
