"""A task's training in one rank: from the plan to the last update."""

from __future__ import annotations

from collections.abc import Callable

import torch

from launcher.plan.changes import recipe_mark, refuse_past_end
from launcher.plan.planner import Plan
from launcher.rundir.generation import Generation
from launcher.rundir.identity import refuse_foreign, restore_identity
from launcher.rundir.layout import RunDirectory
from launcher.rundir.lineage import refuse_other_recipe
from launcher.rundir.rows import cut_rows
from launcher.rundir.unlogged import last_logged, unlogged_row
from launcher.trackers.base import Composite, Tracker
from launcher.trackers.jsonl import JsonlTracker
from launcher.trackers.wandb import make_wandb_tracker
from launcher.train.job import Materials, build_job
from launcher.train.loop import catch_up, train
from launcher.train.step_result import StepResult
from launcher.worker.checkpointing import RunSaver, refuse_what_cannot_be_kept
from launcher.worker.dist_env import DistEnv
from launcher.worker.fitting import fitted, keeper
from launcher.worker.heart import Heart
from launcher.worker.preparation import prepared
from launcher.worker.process import StopFlag
from launcher.worker.resuming import checkpoint_to_resume, load_checkpoint
from launcher.worker.same_data import hold_to_data
from launcher.worker.tf32 import use_tf32


def run_training(
    plan: Plan, run: RunDirectory, env: DistEnv, heart: Heart, generation: Generation, started: Callable[[int], None]
) -> object:
    """Train this rank's share of the plan's task.

    Args:
        plan: the plan of the run.
        run: its directory.
        env: this worker's place.
        heart: beats, and goes on to when this returns.
        generation: of the launch that it belongs to.
        started: told the number of each update before it begins.

    Returns:
        What has held the ranks together, which goes when this does.

    Raises:
        RequestError: the recipe says of the data or the model what is not so.
        StaleWriterError: a later launch has taken the run over.
    """
    if plan.recipe.train.exact_ranks is not None:
        _use_exact_kernels()
    use_tf32(plan.recipe.train.tf32)
    with prepared(plan, run, env, generation) as ready:
        plan = ready.plan
        if env.rank == 0:
            _say_what_was_found(plan, ready.materials)
        stop = StopFlag()
        checkpoint = checkpoint_to_resume(run, env.rank, ready.gather, print, generation.after)
        first_update = checkpoint.update if checkpoint else 0
        if checkpoint:
            refuse_foreign(run, checkpoint)
            refuse_other_recipe(run, checkpoint, recipe_mark(plan))
            refuse_past_end(plan, first_update)
        if env.rank == 0:
            generation.check()  # to verify a checkpoint may have taken long
            if checkpoint:
                restore_identity(run, checkpoint)
            logged = last_logged(checkpoint) if checkpoint else 0
            cut_rows(run.metrics, logged, print)  # a pasted dry run has no launcher that does
        resumed = checkpoint is not None
        hold_to_data(run, plan, ready.materials, env.rank, ready.gather, resumed=resumed)
        if plan.recipe.checkpoint.wanted:
            refuse_what_cannot_be_kept(ready.materials.model)  # while it is whole
        job = build_job(plan, ready.materials, env.rank, ready.device, stop.is_set, first_update, heart.progress)
        job = fitted(job, ready.materials.train_data, first_update, run, generation)
        plan = job.plan
        if checkpoint:
            load_checkpoint(checkpoint, job, print)
        saver = RunSaver(run, job, print, generation) if plan.recipe.checkpoint.wanted else None
        trackers = _trackers(plan, run) if env.rank == 0 else Composite([])

        def log(result: StepResult) -> None:
            if env.rank == 0:
                trackers.log(result.row())

        def begins(update: int) -> None:
            started(update)
            heart.beat()

        def say(sentence: str) -> None:
            if env.rank == 0:
                print(sentence)

        unlogged = unlogged_row(checkpoint) if checkpoint else None
        finished = False
        try:
            stop.listen()  # from here on a signal ends the run at an update; until here, at once
            if unlogged is None or catch_up(job, unlogged, trackers.log, say):
                finished = train(job, log, begins, saver, keeper(env.rank, run, generation), say)
        finally:
            heart.progress.ends()
            trackers.finish(finished)
    return job.engine  # and not the job: its data are to end their processes now


def _use_exact_kernels() -> None:
    """Let PyTorch refuse, by name, what it can compute only in an order that changes from run to run."""
    torch.use_deterministic_algorithms(True)


def _trackers(plan: Plan, run: RunDirectory) -> Composite:
    trackers: list[Tracker] = [JsonlTracker(run.metrics, print)]
    wandb = make_wandb_tracker(plan, run.path, print)
    if wandb is not None:
        trackers.append(wandb)
    return Composite(trackers)


def _say_what_was_found(plan: Plan, materials: Materials) -> None:
    print(f"data: {plan.length.data_samples:,} samples; model: {materials.parameters:,} trainable parameters")
    batchnorm = [name for name, layer in materials.model.named_modules() if _sees_the_micro_batch(layer)]
    if batchnorm and not plan.recipe.parallel.sync_batchnorm:
        print(
            f"warning: {', '.join(batchnorm)} take statistics from one micro-batch, so accumulation does not equal "
            "one big batch"
        )


def _sees_the_micro_batch(layer: torch.nn.Module) -> bool:
    return isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)
