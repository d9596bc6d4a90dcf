"""Memory that runs out in a window: it is taken again with half the micro-batch, as if it had never been tried."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from launcher.plan.fitting import FoundMicro
from launcher.plan.planner import with_found
from launcher.train import loop
from launcher.train.loop import train
from launcher.train.memory import Halved
from launcher.train.out_of_memory import MemoryRanOutError, NoMemoryError, ran_out
from launcher.train.step_result import StepResult
from tests.tasks.hungry import Hungry, Noisy
from tests.train.test_micro_search import job_of, state_of

HALVE = {"global": 48, "micro": 8, "on_out_of_memory": "halve"}
_CLOCKS = ("time/", "throughput/", "memory/")


def trained(task: Hungry, *found: FoundMicro, batch: dict[str, Any] = HALVE, say: Any = None, **sections: Any) -> Any:
    """The state and the rows of a run, and what was halved; `found` is what an earlier launch has found."""
    job = job_of(task, batch, **sections)
    if found:
        job.go_on(with_found(job.plan, found), 0)
    rows: list[StepResult] = []
    halved: list[Halved] = []
    train(job, rows.append, lambda update: None, halved=halved.append, say=say)
    state = {key: value for key, value in state_of(job).items() if key != "optimizer"}
    optimizer = {key: str(value) for key, value in job.stepper.optimizer.state_dict()["state"].items()}
    logged = [{key: value for key, value in row.row().items() if not key.startswith(_CLOCKS)} for row in rows]
    return (state, optimizer, logged), halved


@pytest.mark.parametrize(
    ("kind", "where", "backward", "call"),
    [
        (Hungry, "forward", "joint", 1),
        (Hungry, "backward", "sequential", 9),
        (Noisy, "backward", "joint", 12),
        (Noisy, "forward", "sequential", 12),
    ],
)
def test_the_window_is_taken_again_and_nothing_else_is_seen_of_it(
    kind: type[Hungry], where: str, backward: str, call: int
) -> None:
    """Bit for bit as a run that had the smaller micro-batch from that update on; update 2 has the calls 7 to 12."""
    section = {"backward": backward}
    update = (call - 1) // 6
    once, halved = trained(kind(dropout=0.2, fails={"0": [call]}, where=where), multitask=section)
    assert [each.window.update for each in halved] == [update]
    assert str(halved[0]) == (
        f"rank 0 ran out of memory in update {update + 1} with 8 samples: from here on micro-batches have 4, and the "
        "update is made again with the same 48 samples"
    )
    found = (FoundMicro(since=0, micro=8), FoundMicro(since=update, micro=4))
    never, nothing = trained(kind(dropout=0.2), *found, multitask=section)
    assert halved[0].plan.found == found
    assert not nothing
    assert once == never


def test_a_second_failure_halves_again() -> None:
    """Update 2 fails with 8 and with 4, update 4 with 2; the plan has what each update had in the end."""
    once, halved = trained(Hungry(dropout=0.2, fails={"0": [8, 12, 60]}))
    assert [each.plan.batch.micro for each in halved] == [4, 2, 1]
    found = (FoundMicro(since=0, micro=8), FoundMicro(since=1, micro=2), FoundMicro(since=2, micro=1))
    assert halved[-1].plan.found == found
    assert once == trained(Hungry(dropout=0.2), *found)[0]


def test_with_one_sample_it_ends() -> None:
    with pytest.raises(NoMemoryError, match="update 1 does not fit with one sample in a micro-step"):
        trained(Hungry(most=0))


def test_without_halving_it_ends_with_the_cure() -> None:
    with pytest.raises(
        MemoryRanOutError,
        match=r"^memory ran out in a micro-step of 8 samples \(CUDA out of memory\). Set batch.micro=4, "
        "batch.micro=auto or batch.on_out_of_memory=halve: the global batch stays$",
    ):
        trained(Hungry(fails={"0": [3]}), batch={"global": 48, "micro": 8})


def test_other_errors_end_as_they_are() -> None:
    with pytest.raises(ValueError, match="bad pixel in sample 17"):
        trained(Hungry(dies={"0": [3]}))


def test_buffers_that_a_forward_replaces_come_back() -> None:
    """Also those that failed passes have only read or added to; see Net."""
    (once, *_), _ = trained(Hungry(fails={"0": [12]}))
    (never, *_), _ = trained(Hungry(), FoundMicro(since=0, micro=8), FoundMicro(since=1, micro=4))
    for name in ("passes", "seen", "constant"):
        assert once["model"][name] == never["model"][name]


class Evaluated(Hungry):
    """Evaluates on what it is trained on."""

    most_evaluated: int | None = None

    def eval_data(self) -> Any:
        return self.train_data()

    def evaluate(self, model: Any, batch: Any) -> Any:
        inputs, targets = batch
        if len(inputs) > (self.most if self.most_evaluated is None else self.most_evaluated):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return {"loss": (model(inputs) - targets).square().squeeze(1)}


def test_evaluations_take_the_micro_batch_that_was_left() -> None:
    (_, _, rows), halved = trained(Evaluated(most=3), eval={"every": 2})
    assert [each.plan.batch.micro for each in halved] == [4, 2]
    assert ["eval/loss" in row for row in rows] == [False, True, False, True, True]


def test_an_evaluation_that_does_not_fit_ends_with_the_cure() -> None:
    task = Evaluated(most=8)
    task.most_evaluated = 7
    with pytest.raises(
        MemoryRanOutError, match=r"in an evaluation of 8 samples at a time .* Set a smaller batch.micro"
    ):
        trained(task, batch={"global": 48, "micro": 8}, eval={"every": 2})


class Drawing(Evaluated):
    """Draws random numbers in evaluations, and counts these in a buffer."""

    def evaluate(self, model: Any, batch: Any) -> Any:
        model.passes += 1
        torch.rand(1)
        return super().evaluate(model, batch)


def test_an_evaluation_that_does_not_fit_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is seen of it afterwards: training keeps its micro-batch, later evaluations begin with what was left."""
    said: list[str] = []
    task = Drawing(most=8, dropout=0.2)
    task.most_evaluated = 3
    state, halved = trained(task, eval={"every": 2}, say=said.append)
    assert not halved
    assert said == [
        "an evaluation ran out of memory with 8 samples at a time: from here on evaluations take 4 at a time, and this "
        "one is made again",
        "an evaluation ran out of memory with 4 samples at a time: from here on evaluations take 2 at a time, and this "
        "one is made again",
    ]
    assert ["eval/loss" in row for row in state[2]] == [False, True, False, True, True]
    monkeypatch.setattr(loop, "MOST", 2)  # from the start
    fitted, _ = trained(Drawing(most=8, dropout=0.2), eval={"every": 2})
    assert state == fitted


def test_an_evaluation_of_one_sample_that_does_not_fit_ends_the_run() -> None:
    task = Evaluated(most=8)
    task.most_evaluated = 0
    with pytest.raises(NoMemoryError, match="an evaluation does not fit with one sample at a time"):
        trained(task, eval={"every": 2})


def test_an_exception_that_is_raised_from_itself_is_read_once() -> None:
    error = ValueError("in my layer")
    error.__cause__ = error
    assert not ran_out(error)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("in my layer"), False),
    ],
)
def test_what_says_that_memory_ran_out(error: Exception, found: bool) -> None:
    assert ran_out(error) == found
    wrapped = ValueError("in my layer")
    wrapped.__cause__ = error
    assert ran_out(wrapped) == found
