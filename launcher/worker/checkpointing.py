"""Writing and reading the checkpoints of a run, all ranks together."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import nn

from launcher.errors import Mistake, RequestError
from launcher.plan.changes import recipe_mark
from launcher.plan.windows import Window
from launcher.rundir.checkpoints import Checkpoint, Checkpoints
from launcher.rundir.durable import sync_file, write_durably
from launcher.rundir.generation import Generation
from launcher.rundir.identity import marks_of
from launcher.rundir.layout import RunDirectory
from launcher.rundir.lineage import RECIPE
from launcher.rundir.manifest import FileFacts
from launcher.train.job import Job
from launcher.train.randomness import seed_everything
from launcher.train.snapshot import (
    HostCopy,
    Numbers,
    OtherModelError,
    Tensors,
    model_state,
    randomness,
    restore_randomness,
)
from launcher.words import plural
from launcher.worker.preparation import Gather
from launcher.worker.tensor_file import refuse_other_types, tensor_file
from launcher.worker.waiting import nothing_to_do, of_all_ranks

Say = Callable[[str], None]
_T = TypeVar("_T")
_MODEL, _OPTIMIZER, _TRAINING = "model", "optimizer", "training.json"
_KIND = "optimizer_kind"


@dataclass(frozen=True)
class Captured:
    """What all ranks hold alike after an update, as rank 0 writes it.

    Attributes:
        update: updates made.
        model: the model.
        optimizer: what the optimizer remembers.
        numbers: all else.
    """

    update: int
    model: Tensors
    optimizer: Tensors
    numbers: Numbers

    def write(self, folder: Path, moved: Callable[[], None] = lambda: None) -> dict[str, FileFacts]:
        """Write it; the facts of each file, by name.

        Args:
            folder: where.
            moved: called, from several threads, whenever some of it is written.
        """
        names = [_tensors_of(name) for name in (_MODEL, _OPTIMIZER)]
        contents = [tensor_file(state.tensors) for state in (self.model, self.optimizer)]
        with ThreadPoolExecutor() as together:
            facts = together.map(write_durably, (folder / name for name in names), contents, repeat(moved))
            files = dict(zip(names, facts, strict=True))
        numbers = {**self.numbers, _MODEL: self.model.numbers, _OPTIMIZER: self.optimizer.numbers}
        return {**files, _TRAINING: _write_numbers(folder / _TRAINING, numbers)}


class RunSaver:
    """Writes checkpoints to the directory of a run: rank 0 what all ranks hold alike, each rank what is its own.

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
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._under_way: Future[None] | None = None  # what all ranks are to wait for; only rank 0 has work in it
        self._parts_written = self._parts_seen = 0
        self._copies = {_MODEL: HostCopy(), _OPTIMIZER: HostCopy()}

    def wishes(self) -> bool:
        """Whether rank 0 finds that enough minutes have passed."""
        minutes = self._settings.minutes
        return self._job.engine.rank == 0 and 0 < 60 * minutes < monotonic() - self._saved_at

    def due(self, update: int) -> bool:
        """Whether the recipe asks for a checkpoint after an update."""
        return self._settings.every is not None and update % self._settings.every == 0

    def save(self, window: Window) -> None:
        """Write a checkpoint; on every rank after the same update.

        In the background that is a copy of the state, which rank 0 writes while the training goes on.

        Raises:
            StaleWriterError: a later launch has taken the run over.
        """
        self.finish()
        update, engine = window.update + 1, self._job.engine
        begun = self._by_first(lambda: _attempt(lambda: str(self._store.begin(update))))
        if isinstance(begun, _Failed):
            self._warn(update, begun)
            return
        folder, own = Path(begun), randomness(engine.device)
        reports = self._all(self._writer.submit(_attempt, lambda: self._write_own(folder, own)))
        self._saved_at = monotonic()
        captured = self._captured(window)  # with all ranks, of which each may hold a part
        if not self._settings.background:
            self._by_first(lambda: self._complete(folder, captured, reports))
        elif engine.rank != 0:
            self._under_way = nothing_to_do()
        else:
            self._under_way = self._writer.submit(self._complete, folder, self._copied(captured), reports)

    def finish(self) -> None:
        """Wait for what is written in the background; on every rank after the same update.

        Raises:
            StaleWriterError: a later launch has taken the run over.
        """
        if self._under_way is not None:
            written, self._under_way = self._under_way, None
            self._all(written)

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
        model, optimizer = self._copies[_MODEL], self._copies[_OPTIMIZER]
        return replace(captured, model=model.of(captured.model), optimizer=optimizer.of(captured.optimizer))

    def _complete(self, folder: Path, captured: Captured, reports: list[Any]) -> None:
        """Write what rank 0 writes for all, and commit."""
        failed = [report for report in reports if isinstance(report, _Failed)]
        outcome = failed[0] if failed else _attempt(lambda: self._commit(folder, captured, reports))
        if isinstance(outcome, _Failed):
            self._store.abandon(folder)
            self._warn(captured.update, outcome)
        else:
            self._store.prune(self._settings.keep)

    def _commit(self, folder: Path, captured: Captured, reports: list[dict[str, FileFacts]]) -> None:
        files = captured.write(folder, self._moved)
        for report in reports:
            files |= report
        sync_file(self._run.metrics)  # or a power loss could leave the checkpoint, and not the rows before it
        self._store.commit(folder, captured.update, files, {**marks_of(self._run), RECIPE: self._recipe})

    def _write_own(self, folder: Path, own: Numbers) -> dict[str, FileFacts]:
        name = _of_rank(self._job.engine.rank)
        return {name: _write_numbers(folder / name, own)}

    def _captured(self, window: Window) -> Captured:
        job = self._job
        numbers = {
            "update": window.update + 1,
            "samples_seen": window.samples_seen,
            "data_samples": job.plan.length.data_samples,
            "world_size": job.engine.world_size,
            "threads": torch.get_num_threads(),
            "stepper": job.stepper.state(),
            "results": job.results.state(),
            _KIND: job.optimizer_kind,
        }
        optimizer = job.engine.optimizer_state(job.stepper.optimizer)
        return Captured(window.update + 1, job.engine.model_state(), optimizer, numbers)

    def _warn(self, update: int, failed: _Failed) -> None:
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


def checkpoint_to_resume(run: RunDirectory, rank: int, gather: Gather, say: Say, told: int | None) -> Checkpoint | None:
    """The newest good checkpoint of a run, which rank 0 has verified; None where there is none.

    Args:
        run: the directory of the run.
        rank: this rank.
        gather: tells all ranks what each has.
        say: takes a sentence that the user should read.
        told: the update that the launch says it goes on after, so that no newer one is used, and none at 0.

    Raises:
        NoCheckpointError: there are some, and none is good.
    """
    with ThreadPoolExecutor(max_workers=1) as beside:  # to verify a large one may take longer than ranks wait
        work: Future[Any] = nothing_to_do()
        if rank == 0 and told != 0:
            work = beside.submit(_attempt, lambda: Checkpoints(run, say).newest(told))
        found: Checkpoint | _Failed | None = of_all_ranks(work, gather)[0]
    if isinstance(found, _Failed):
        raise OSError(f"the checkpoints cannot be read: {found.reason}")
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
    numbers = _read_numbers(folder / _TRAINING)
    if numbers["data_samples"] != job.plan.length.data_samples:
        was, now = f"{numbers['data_samples']:,}", f"{job.plan.length.data_samples:,}"
        raise RequestError(
            [Mistake("task", f"the run was begun on {was} samples, and the data has {now}", "Give it the same data")]
        )
    try:
        job.engine.load_model_state(_tensors(folder, _MODEL, numbers))
    except OtherModelError as other:
        cure = "Set the model back, or begin another run with another --run-id"
        raise RequestError([Mistake("task", f"the run was begun with another model: {other}", cure)]) from None
    _load_optimizer(_tensors(folder, _OPTIMIZER, numbers), numbers, job, say)
    job.stepper.restore(numbers["stepper"])
    job.results.restore(numbers["results"])
    if numbers["world_size"] == job.engine.world_size:
        restore_randomness(_read_numbers(folder / _of_rank(job.engine.rank)), device)
        if job.engine.rank == 0:
            _say_if_bits_will_differ(numbers, say)
    else:
        seed_everything(job.plan.recipe.train.seed + numbers["update"], job.engine.rank)
    job.guard.before_keeping(numbers["update"])


def _load_optimizer(state: Tensors, numbers: Numbers, job: Job, say: Say) -> None:
    """Give the optimizer its memory back, unless it is that of another one: only a fork gets so far with it."""
    now = job.optimizer_kind
    was = numbers.get(_KIND, now)  # checkpoints from before it was noted
    if was == now:
        job.engine.load_optimizer_state(job.stepper.optimizer, state)
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


def _tensors(folder: Path, name: str, numbers: Mapping[str, Any]) -> Tensors:
    return Tensors(load_file(folder / _tensors_of(name)), numbers[name])


def _tensors_of(name: str) -> str:
    return f"{name}.safetensors"


def _of_rank(rank: int) -> str:
    return f"rank_{rank:05d}.json"


def _write_numbers(path: Path, numbers: Numbers) -> FileFacts:
    return write_durably(path, [json.dumps(numbers).encode()])


def _read_numbers(path: Path) -> Numbers:
    numbers: Numbers = json.loads(path.read_bytes())
    return numbers


class _Failed:
    """What could not be done, and why; it travels to the other ranks, where an exception would leave them waiting.

    Args:
        error: what was raised.
    """

    def __init__(self, error: OSError) -> None:
        self.reason = error.strerror or str(error)


def _attempt(do: Callable[[], _T]) -> _T | _Failed:
    try:
        return do()
    except OSError as error:
        return _Failed(error)
