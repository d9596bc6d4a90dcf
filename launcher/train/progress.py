"""How far a rank is within its update, kept up to date for whoever watches."""

from __future__ import annotations

from launcher.rundir.heartbeat import Phase


class Progress:
    """Where a rank is. Setting it is all that the training does: another thread reads it when it likes.

    Attributes:
        marks: how often the rank has got further.
        update: the update that it is in, from 1; 0 before the first.
        phase: what it is doing there, and whether it waits for the other ranks.
        share: of its micro-steps of the update that it has begun.
    """

    def __init__(self) -> None:
        self.marks = 0
        self.update = 0
        self.phase: Phase = "computing"
        self.share = 0.0

    def begins_update(self, update: int) -> None:
        """An update (from 1) begins."""
        self.update, self.share, self.phase = update, 0.0, "computing"
        self.marks += 1

    def begins_micro_step(self, step: int, steps: int) -> None:
        """A micro-step (from 0) begins, of so many."""
        self.share = (step + 1) / steps
        self.marks += 1

    def has_computed(self) -> None:
        """The losses of the last micro-step are there: what is left of it is done together with the other ranks."""
        self.phase = "computed"
        self.marks += 1

    def evaluates(self) -> None:
        """A batch of the evaluation begins."""
        self.phase = "evaluating"
        self.marks += 1

    def has_evaluated(self) -> None:
        """This rank's part of the evaluation is done."""
        self.phase = "evaluated"
        self.marks += 1

    def saves(self) -> None:
        """A part of a checkpoint is written, or its writing begins."""
        self.phase = "saving"
        self.marks += 1

    def has_saved(self) -> None:
        """This rank has written its part of a checkpoint; it may say so again."""
        if self.phase != "saved":
            self.phase = "saved"
            self.marks += 1

    def ends(self) -> None:
        """No update is to come."""
        self.phase = "ending"
        self.marks += 1
