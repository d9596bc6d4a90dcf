"""How an epoch is cut into windows, in closed form: how far any number of updates comes, without walking there."""

from __future__ import annotations

from dataclasses import dataclass

ENDLESS = 2**200  # stands for the length of data that is not known: one epoch, longer than any run


@dataclass(frozen=True)
class Progress:
    """How far a run is, between two windows.

    Attributes:
        update: updates made.
        epoch: the epoch of the last window, from 0.
        first: positions of that epoch that its windows have taken.
        samples_seen: samples taken by the run.
    """

    update: int = 0
    epoch: int = 0
    first: int = 0
    samples_seen: int = 0


@dataclass(frozen=True)
class Windowing:
    """Windows of one size: each takes the next samples of the epoch, and where too few are left, the epoch ends.

    Attributes:
        data_samples: samples in the training data, N.
        global_batch: samples of a window.
        keep_tail: whether what is left at the end of an epoch is a window; if not, N must fill one.
    """

    data_samples: int
    global_batch: int
    keep_tail: bool

    @property
    def per_epoch(self) -> int:
        """Windows of a whole epoch."""
        return self._windows_in(self.data_samples)

    @property
    def tail_samples(self) -> int:
        """Samples that do not fill a window at the end of a whole epoch, kept or dropped."""
        return self.data_samples % self.global_batch

    def after(self, progress: Progress, updates: int) -> Progress:
        """How far the run is after so many more windows."""
        in_epoch = self._windows_left(progress)
        if updates <= in_epoch:
            taken = self._samples_of(updates, progress.first)
            epoch, first = progress.epoch, progress.first + taken
        else:
            epochs, index = divmod(updates - in_epoch - 1, self.per_epoch)
            first = self._samples_of(index + 1, 0)
            epoch = progress.epoch + 1 + epochs
            taken = self._samples_of(in_epoch, progress.first) + epochs * self._epoch_samples + first
        return Progress(progress.update + updates, epoch, first, progress.samples_seen + taken)

    def updates_to_take(self, progress: Progress, samples: int) -> int:
        """Windows until at least so many more samples were taken."""
        in_epoch = self._windows_left(progress)
        of_epoch = self._samples_of(in_epoch, progress.first)
        if samples <= of_epoch:
            return max(0, -(-samples // self.global_batch))
        epochs, rest = divmod(samples - of_epoch, self._epoch_samples)
        return in_epoch + epochs * self.per_epoch - (-rest // self.global_batch)

    def updates_to_finish(self, progress: Progress, epochs: int) -> int:
        """Windows until the run has had so many epochs in all."""
        if progress.epoch >= epochs:
            return 0
        return self._windows_left(progress) + (epochs - progress.epoch - 1) * self.per_epoch

    @property
    def _epoch_samples(self) -> int:
        """Samples that the windows of a whole epoch take."""
        return self._samples_of(self.per_epoch, 0)

    def _windows_left(self, progress: Progress) -> int:
        return self._windows_in(self.data_samples - progress.first)

    def _windows_in(self, samples: int) -> int:
        return -(-samples // self.global_batch) if self.keep_tail else samples // self.global_batch

    def _samples_of(self, windows: int, first: int) -> int:
        """Samples of so many windows of one epoch, from a position of it on."""
        return min(windows * self.global_batch, self.data_samples - first)
