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
        loss: weighted mean of the loss over all samples of all ranks.
        learning_rate: the recipe's rate for this update; a parameter group may have its own.
        grad_norm: L2 norm of the reduced gradient, before clipping.
        micro_steps: micro-steps of this rank.
        reductions: gradient all-reduces of this rank, counted.
        seconds: from the end of the update before to the end of this one, without evaluation.
        data_seconds: of these, spent waiting for data.
        peak_bytes: most memory used so far: of the GPU, or of the process on a CPU.
        evaluation: name → measurement after the update; empty when none was due.
    """

    window: Window
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    micro_steps: int
    reductions: Reductions
    seconds: float
    data_seconds: float
    peak_bytes: int
    evaluation: Mapping[str, float]

    def row(self) -> dict[str, float]:
        """The metrics of the update, by the names that W&B and metrics.jsonl share."""
        return {
            "train/global_step": self.window.update + 1,
            "train/epoch": self.epoch,
            "train/loss": self.loss,
            "train/learning_rate": self.learning_rate,
            "train/grad_norm": self.grad_norm,
            "train/samples_seen": self.window.samples_seen,
            "batch/global_samples": self.window.samples,
            "batch/global_items": self.window.items,
            "batch/micro_steps": self.micro_steps,
            "batch/world_size": self.window.world_size,
            "comm/allreduce_calls": self.reductions.calls,
            "comm/allreduce_bytes": self.reductions.bytes,
            "throughput/samples_per_sec": self.window.samples / self.seconds if self.seconds else 0.0,
            "time/update": self.seconds,
            "time/data": self.data_seconds,
            "memory/peak_bytes": self.peak_bytes,
            **{f"eval/{name}": value for name, value in self.evaluation.items()},
        }
