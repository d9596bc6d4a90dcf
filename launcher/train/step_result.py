"""What one update did, as it is logged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from launcher.plan.windows import Window
from launcher.train.engines.base import Reductions


@dataclass(frozen=True)
class StepResult:
    """One update as it really was.

    Attributes:
        window: what entered the update.
        epoch: epochs completed, with the fraction of the current one.
        losses: name → mean of the loss over all its items of all ranks; a loss without items is left out.
        loss: their sum with the recipe's weights; None when none had items.
        items: items of the first loss over all ranks.
        tokens_seen: items consumed by the run so far, where a task counts them.
        learning_rate: the recipe's rate for this update; a parameter group may have its own.
        grad_norm: L2 norm of the reduced gradient, before clipping; None when there was none.
        noise_scale: gradient noise scale in samples, when it was measured.
        micro_steps: micro-steps of this rank.
        skipped: updates without an optimizer step so far: no items, or a gradient that is not finite.
        reductions: gradient all-reduces of this rank, counted.
        seconds: from the end of the update before to the end of this one, without evaluation.
        data_seconds: of these, spent waiting for data.
        peak_bytes: most memory used so far: of the GPU, or of the process on a CPU.
        evaluation: name → measurement after the update; empty when none was due.
    """

    window: Window
    epoch: float
    losses: Mapping[str, float]
    loss: float | None
    items: int
    tokens_seen: int | None
    learning_rate: float
    grad_norm: float | None
    noise_scale: float | None
    micro_steps: int
    skipped: int
    reductions: Reductions
    seconds: float
    data_seconds: float
    peak_bytes: int
    evaluation: Mapping[str, float]

    def row(self) -> dict[str, float]:
        """The metrics of the update, by the names that W&B and metrics.jsonl share; what is not known is not there."""
        per_second = 1 / self.seconds if self.seconds else 0.0
        row: dict[str, float | None] = {
            "train/global_step": self.window.update + 1,
            "train/epoch": self.epoch,
            "train/loss": self.loss,
            **{f"train/loss/{name}": value for name, value in self.losses.items() if len(self.losses) > 1},
            "train/learning_rate": self.learning_rate,
            "train/grad_norm": self.grad_norm,
            "train/gradient_noise_scale": self.noise_scale,
            "train/samples_seen": self.window.samples_seen,
            "train/tokens_seen": self.tokens_seen,
            "train/skipped_updates": self.skipped,
            "batch/global_samples": self.window.samples,
            "batch/global_items": self.items,
            "batch/micro_steps": self.micro_steps,
            "batch/world_size": self.window.world_size,
            "comm/allreduce_calls": self.reductions.calls,
            "comm/allreduce_bytes": self.reductions.bytes,
            "comm/allgather_calls": self.reductions.gathers or None,
            "comm/allgather_bytes": self.reductions.gathered_bytes or None,
            "throughput/samples_per_sec": self.window.samples * per_second,
            "throughput/tokens_per_sec": None if self.tokens_seen is None else self.items * per_second,
            "time/update": self.seconds,
            "time/data": self.data_seconds,
            "memory/peak_bytes": self.peak_bytes,
            **named(self.evaluation),
        }
        return {name: value for name, value in row.items() if value is not None}


def named(evaluation: Mapping[str, float]) -> dict[str, float]:
    """The measurements of an evaluation by the names of their metrics."""
    return {f"eval/{name}": value for name, value in evaluation.items()}
