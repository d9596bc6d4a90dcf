"""Reading the checkpoints of a run, all ranks together."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from launcher.errors import Mistake, RequestError
from launcher.rundir.checkpoints import Checkpoint, Checkpoints, NoCheckpointError
from launcher.rundir.layout import RunDirectory
from launcher.train.job import Job
from launcher.train.randomness import seed_everything
from launcher.train.snapshot import Numbers, OtherModelError, restore_randomness
from launcher.words import plural
from launcher.worker.attempt import Failed, attempt
from launcher.worker.checkpoint_files import KIND, MODEL, OPTIMIZER, TRAINING, of_rank, read_numbers
from launcher.worker.kept_tensors import KeptTensors
from launcher.worker.preparation import Gather
from launcher.worker.waiting import nothing_to_do, of_all_ranks

Say = Callable[[str], None]


def checkpoint_to_resume(run: RunDirectory, rank: int, gather: Gather, say: Say, told: int | None) -> Checkpoint | None:
    """The newest good checkpoint of a run, which rank 0 has verified; None where there is none.

    Args:
        run: the directory of the run.
        rank: this rank.
        gather: tells all ranks what each has.
        say: takes a sentence that the user should read.
        told: the update that the launch says it goes on after, so that no newer one is used, and none at 0.

    Raises:
        NoCheckpointError: there are some, and none is good; or there were some when the launch was begun.
    """
    with ThreadPoolExecutor(max_workers=1) as beside:  # to verify a large one may take longer than ranks wait
        work: Future[Any] = nothing_to_do()
        if rank == 0 and told != 0:
            work = beside.submit(attempt, lambda: Checkpoints(run, say).newest(told))
        found: Checkpoint | Failed | None = of_all_ranks(work, gather)[0]
    if isinstance(found, Failed):
        raise OSError(f"the checkpoints cannot be read: {found.reason}")
    if told and found is None:
        raise NoCheckpointError(f"The run was to go on after update {told}, and {run.checkpoints} is empty by now.")
    return found


def load_checkpoint(checkpoint: Checkpoint, job: Job, say: Say) -> None:
    """Give a job the state of a checkpoint. The ranks may be others than those that wrote it.

    Random numbers go on where they were on the same number of ranks; on another one they begin anew from the seed.

    Args:
        checkpoint: the checkpoint.
        job: this rank's job.
        say: takes a sentence that the user should read; it is rank 0 that says it.

    Raises:
        RequestError: the data or the model are not those that the run was begun with.
    """
    folder, device = checkpoint.folder, job.engine.device
    numbers = read_numbers(folder / TRAINING)
    if numbers["data_samples"] != job.plan.length.data_samples:
        was, now = f"{numbers['data_samples']:,}", f"{job.plan.length.data_samples:,}"
        raise RequestError(
            [Mistake("task", f"the run was begun on {was} samples, and the data has {now}", "Give it the same data")]
        )
    _refuse_other_windows(numbers, job)
    try:
        job.engine.load_model_state(KeptTensors(folder, MODEL, numbers[MODEL]))
    except OtherModelError as other:
        cure = "Set the model back, or begin another run with another --run-id"
        raise RequestError([Mistake("task", f"the run was begun with another model: {other}", cure)]) from None
    _load_optimizer(KeptTensors(folder, OPTIMIZER, numbers[OPTIMIZER]), numbers, job, say)
    job.stepper.restore(numbers["stepper"])
    job.results.restore(numbers["results"])
    if numbers["world_size"] == job.engine.world_size:
        restore_randomness(read_numbers(folder / of_rank(job.engine.rank)), device)
        if job.engine.rank == 0:
            _say_if_bits_will_differ(numbers, say)
    else:
        seed_everything(job.plan.recipe.train.seed + numbers["update"], job.engine.rank)
    job.guard.before_keeping(numbers["update"])


def _refuse_other_windows(numbers: Numbers, job: Job) -> None:
    """No sample is to be skipped or taken twice because the windows of a run are not those that it had."""
    update, seen = numbers["update"], numbers["samples_seen"]
    planned = next(job.plan.windows(update - 1)).samples_seen
    if planned != seen:
        wrong = f"the run has taken {seen:,} samples in {update:,} updates, which in this recipe are {planned:,}"
        raise RequestError([Mistake("batch", wrong, "Set the batch, its schedule and its tail back")])


def _load_optimizer(kept: KeptTensors, numbers: Numbers, job: Job, say: Say) -> None:
    """Give the optimizer its memory back, unless it is that of another one: only a fork gets so far with it."""
    now = job.optimizer_kind
    was = numbers.get(KIND, now)  # checkpoints from before it was noted
    if was == now:
        job.engine.load_optimizer_state(job.stepper.optimizer, kept)
        return
    same = was["algorithm"] == now["algorithm"]
    what = "it had other parameters" if same else f"it was {was['algorithm']}, and is {now['algorithm']} now"
    if job.engine.rank == 0:
        say(f"warning: the optimizer begins anew, without what it remembered: {what}")


def _say_if_bits_will_differ(numbers: Numbers, say: Say) -> None:
    """How many threads add up a product changes its bits: on the same ranks nothing else does."""
    before, now = numbers.get("threads"), torch.get_num_threads()
    if before not in (None, now):
        say(
            f"warning: the run goes on with {plural(now, 'thread')} a rank, and had {before} before: its bits are not "
            "those of a run that was not interrupted. Set OMP_NUM_THREADS to choose"
        )
