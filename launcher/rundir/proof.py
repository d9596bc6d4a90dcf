"""What `launcher prove` found: written by rank 0 of its workers, shown by the command line."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from launcher.rundir.layout import RunDirectory, write_atomically

PROVE = "prove"  # the argument that tells a worker to prove instead of to train
STEP_MARK = "proving: "  # rank 0 begins a line of its log with it, and says what it is doing

Precision = Literal["float32", "float64"]
Kind = Literal[
    "rank-dependent parameters",
    "not finite",
    "batchnorm",
    "randomness",
    "data",
    "rank-dependent data",
    "rank-dependent work",
    "kernels",
    "state",
    "editions",
    "items",
    "sum or mean",
    "mean of means",
    "mixed samples",
    "split",
]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ParameterError(_Part):
    """The gradient of one parameter beside its true one.

    Attributes:
        name: the parameter.
        error: ‖found − true‖ / ‖true‖ of this parameter; None where its true gradient is zero or not finite.
        share: ‖found − true‖ of this parameter / ‖true‖ of all of them.
    """

    name: str
    error: float | None
    share: float | None


class LossValues(_Part):
    """A loss of the window, a mean over its items; None where it is not finite or has no items."""

    name: str
    accumulated: float | None
    one_batch: float | None

    @property
    def difference(self) -> float | None:
        """The accumulated one less the one of one batch."""
        if self.accumulated is None or self.one_batch is None:
            return None
        return self.accumulated - self.one_batch


class AllReduces(_Part):
    """Gradient all-reduces of one rank in the window, counted where they happen.

    Attributes:
        calls: how many there were.
        bytes: what was handed to them.
        planned_bytes: what the plan says: one copy of the gradients.
        bytes_without_no_sync: the same if every micro-step reduced.
    """

    calls: int
    bytes: int
    planned_bytes: int
    bytes_without_no_sync: int


class Shape(_Part):
    """How the window was taken, and its reference.

    Attributes:
        samples: samples of the window.
        world_size: ranks.
        micro_steps: micro-steps of each rank.
        slices: parts that the reference was computed in; 1 is one big batch.
        slice_samples: samples of the largest of them.
        items: items of each loss, by name.
    """

    samples: int
    world_size: int
    micro_steps: tuple[int, ...]
    slices: int
    slice_samples: int
    items: dict[str, int]


class Cause(_Part):
    """Why the accumulated gradient is not that of one batch.

    Attributes:
        kind: what it is.
        finding: what was found, in a sentence.
        places: layers, parameters or losses that it is about.
        evidence: what was done to find out, and what came of it.
        error_with: the error while every other cause that can be switched off is, where that was measured.
        error_without: the error when this one is switched off too.
        cure: what to do about it, in a sentence.
    """

    kind: Kind
    finding: str
    places: tuple[str, ...] = ()
    evidence: str
    error_with: float | None = None
    error_without: float | None = None
    cure: str


class Proof(_Part):
    """One window, accumulated over the ranks and as one batch.

    Attributes:
        recipe: name of the recipe.
        equivalent: the verdict.
        error: ‖found − true‖ / ‖true‖ over all parameters, in `precision`; None where a gradient is not finite.
        tolerance: the largest error that is called equivalent in that precision.
        precision: the number format that the verdict was found in.
        float32_error: the error in float32, where the verdict needed float64.
        worst_parameters: the parameters that add most to the error, the worst first.
        losses: the losses both ways.
        all_reduces: what crossed the network.
        shape: the window.
        causes: why it is not equivalent.
        ruled_out: what was tested and is not the cause.
        notes: what a reader should know besides.
    """

    recipe: str
    equivalent: bool
    error: float | None
    tolerance: float
    precision: Precision
    float32_error: float | None = None
    worst_parameters: tuple[ParameterError, ...]
    losses: tuple[LossValues, ...]
    all_reduces: AllReduces
    shape: Shape
    causes: tuple[Cause, ...] = ()
    ruled_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def write(self, run: RunDirectory) -> None:
        """Leave the proof in its run directory."""
        write_atomically(run.proof, self.model_dump_json(indent=2) + "\n", lasting=True)

    @staticmethod
    def read(run: RunDirectory) -> Proof:
        """The proof of a run directory."""
        return Proof.model_validate_json(run.proof.read_text(encoding="utf-8"))
