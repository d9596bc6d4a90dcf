"""Writing the checkpoints of a run, all ranks together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import torch
from torch import nn

from launcher.errors import Mistake, RequestError
from launcher.plan.changes import recipe_mark
from launcher.plan.windows import Window
from launcher.rundir.checkpoints import Checkpoints
from launcher.rundir.durable import sync_file
from launcher.rundir.generation import Generation
from launcher.rundir.identity import marks_of
from launcher.rundir.layout import RunDirectory
from launcher.rundir.lineage import RECIPE
from launcher.rundir.manifest import FileFacts
from launcher.rundir.unlogged import mark_of
from launcher.train.engines.process_group import gather_beside
from launcher.train.host_copy import HostCopy
from launcher.train.job import Job
from launcher.train.snapshot import Numbers, model_state, randomness
from launcher.worker.attempt import Failed, attempt
from launcher.worker.checkpoint_files import KIND, MODEL, OPTIMIZER, Captured, of_rank, write_numbers
from launcher.worker.preparation import Gather
from launcher.worker.tensor_file import refuse_other_types
from launcher.worker.waiting import nothing_to_do, of_all_ranks

Say = Callable[[str], None]
_T = TypeVar("_T")


class RunSaver:
    """Writes checkpoints to the directory of a run: rank 0 what all ranks hold alike, each rank what is its own.

    Where ranks hold the model in parts, each writes its parts, and none needs room for the whole.

    A checkpoint that cannot be written (the disk is full, say) costs a warning and no more. A disk that is slow costs
    time: threads write, and the ranks wait for each other in no collective that would be given up meanwhile.

    Args:
        run: the directory of the run.
        job: this rank's job.
        say: takes a sentence that the user should read; it is rank 0 that says it.
        generation: of the launch that writes; by default the last.
    """

    def __init__(self, run: RunDirectory, job: Job, say: Say, generation: Generation | None = None) -> None:
        self._job = job
        self._settings = job.plan.recipe.checkpoint
        self._store = Checkpoints(run, say, generation)
        self._run = run
        self._recipe = recipe_mark(job.plan)
        self._say = say
        self._saved_at = monotonic()
        self._writer, self._beside = ThreadPoolExecutor(max_workers=1), ThreadPoolExecutor(max_workers=1)
        self._gather_beside: Gather | None = None
        self._under_way: Future[bool | None] | None = None  # what all ranks wait for; rank 0 finds if it is committed
        self._kept = True  # the last checkpoint
        self._parts_written = self._parts_seen = 0
        self._copies = {MODEL: HostCopy(), OPTIMIZER: HostCopy()}

    def wishes(self) -> bool:
        """Whether rank 0 finds that enough minutes have passed."""
        minutes = self._settings.minutes
        return self._job.engine.rank == 0 and 0 < 60 * minutes < monotonic() - self._saved_at

    def due(self, update: int) -> bool:
        """Whether the recipe asks for a checkpoint after an update."""
        return self._settings.every is not None and update % self._settings.every == 0

    def save(self, window: Window, unlogged: Mapping[str, float] | None = None) -> None:
        """Write a checkpoint; on every rank after the same update.

        In the background that is a copy of the state, which is written while the training goes on.

        Args:
            window: that of the update.
            unlogged: the row of the update, if it is not logged yet.

        Raises:
            StaleWriterError: a later launch has taken the run over.
        """
        self.finish()
        update, engine = window.update + 1, self._job.engine
        begun = self._by_first(lambda: attempt(lambda: str(self._store.begin(update))))
        if isinstance(begun, Failed):
            self._warn(update, begun)
            self._kept = False
            return
        folder, own = Path(begun), randomness(engine.device)
        reports = self._all(self._writer.submit(attempt, lambda: self._write_own(folder, own)))
        self._saved_at = monotonic()
        captured = self._captured(window, unlogged)
        if self._settings.background:
            self._under_way = self._go_on_beside(folder, captured, reports)
            return
        if captured.in_parts:
            reports += self._all(self._written_parts(folder, captured))
        self._kept = self._by_first(lambda: self._complete(folder, captured, reports))

    def _go_on_beside(self, folder: Path, captured: Captured, reports: list[Any]) -> Future[Any]:
        """Copy the state, and write the copy while the training goes on."""
        if captured.in_parts:
            if self._gather_beside is None:
                self._gather_beside = gather_beside(self._job.plan.recipe.parallel.timeout)
            gather, copied = self._gather_beside, self._copied(captured)
            return self._beside.submit(self._complete_together, folder, copied, reports, gather)
        if self._job.engine.rank != 0:
            return nothing_to_do()
        return self._writer.submit(self._complete, folder, self._copied(captured), reports)

    def _complete_together(self, folder: Path, captured: Captured, reports: list[Any], gather: Gather) -> bool | None:
        """Write this rank's parts, and commit on rank 0 when all ranks have; there, whether it is."""
        parts = of_all_ranks(self._written_parts(folder, captured), gather)
        return self._complete(folder, captured, [*reports, *parts]) if self._job.engine.rank == 0 else None

    def _written_parts(self, folder: Path, captured: Captured) -> Future[dict[str, FileFacts] | Failed]:
        rank = self._job.engine.rank
        return self._writer.submit(attempt, lambda: captured.write_parts(folder, rank, self._moved))

    def finish(self) -> bool:
        """Wait for what is written in the background; on every rank after the same update.

        Returns:
            Whether the last checkpoint is committed, on every rank.

        Raises:
            StaleWriterError: a later launch has taken the run over.
        """
        if self._under_way is not None:
            written, self._under_way = self._under_way, None
            self._kept = bool(self._all(written)[0])
        return self._kept

    def _by_first(self, do: Callable[[], _T]) -> _T:
        """What rank 0 finds, on every rank."""
        work: Future[Any] = self._writer.submit(do) if self._job.engine.rank == 0 else nothing_to_do()
        first: _T = self._all(work)[0]
        return first

    def _all(self, work: Future[_T]) -> list[_T]:
        """What the work of each rank comes to, on every rank; it is told how far this rank is with its own."""
        self._job.progress.saves()
        return of_all_ranks(work, self._job.engine.gather, self._tell)

    def _tell(self, done: bool) -> None:
        if done:
            self._job.progress.has_saved()
        elif self._parts_written != self._parts_seen:
            self._parts_seen = self._parts_written
            self._job.progress.saves()

    def _moved(self) -> None:
        """Two threads at once may count one part for two, which is further all the same."""
        self._parts_written += 1

    def _copied(self, captured: Captured) -> Captured:
        model, optimizer = self._copies[MODEL], self._copies[OPTIMIZER]
        return replace(captured, model=model.of(captured.model), optimizer=optimizer.of(captured.optimizer))

    def _complete(self, folder: Path, captured: Captured, reports: list[Any]) -> bool:
        """Write what rank 0 writes for all, and commit; whether it could be done."""
        failed = [report for report in reports if isinstance(report, Failed)]
        outcome = failed[0] if failed else attempt(lambda: self._commit(folder, captured, reports))
        if isinstance(outcome, Failed):
            self._store.abandon(folder)
            self._warn(captured.update, outcome)
            return False
        self._store.prune(self._settings.keep)
        return True

    def _commit(self, folder: Path, captured: Captured, reports: list[dict[str, FileFacts]]) -> None:
        files = captured.write(folder, self._moved)
        for report in reports:
            files |= report
        sync_file(self._run.metrics)  # or a power loss could leave the checkpoint, and not the rows before it
        marks = {**marks_of(self._run), RECIPE: self._recipe, **mark_of(captured.unlogged)}
        self._store.commit(folder, captured.update, files, marks)

    def _write_own(self, folder: Path, own: Numbers) -> dict[str, FileFacts]:
        name = of_rank(self._job.engine.rank)
        return {name: write_numbers(folder / name, own)}

    def _captured(self, window: Window, unlogged: Mapping[str, float] | None) -> Captured:
        job = self._job
        numbers = {
            "update": window.update + 1,
            "samples_seen": window.samples_seen,
            "data_samples": job.plan.length.data_samples,
            "world_size": job.engine.world_size,
            "threads": torch.get_num_threads(),
            "stepper": job.stepper.state(),
            "results": job.results.state(),
            KIND: job.optimizer_kind,
        }
        optimizer = job.engine.optimizer_state(job.stepper.optimizer)
        return Captured(window.update + 1, job.engine.model_state(), optimizer, numbers, unlogged)

    def _warn(self, update: int, failed: Failed) -> None:
        if self._job.engine.rank == 0:
            self._say(
                f"warning: no checkpoint after update {update}: {failed.reason}. The training goes on; what was "
                "saved before is kept"
            )


def refuse_what_cannot_be_kept(model: nn.Module) -> None:
    """Make sure, before an update is made, that checkpoints can hold a model.

    Args:
        model: the model.

    Raises:
        RequestError: it has something that they cannot hold.
    """
    try:
        refuse_other_types(model_state(model).tensors)
    except TypeError as cannot:
        cure = "Keep it out of the model's state_dict, or save nothing: checkpoint.every=null and checkpoint.minutes=0"
        raise RequestError([Mistake("task", str(cannot), cure)]) from None
