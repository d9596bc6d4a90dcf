"""Why an accumulated gradient is not that of one batch: every suspect tried by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from launcher.rundir.proof import Cause
from launcher.train.proof.bench import Bench, Measured
from launcher.train.proof.comparison import finite
from launcher.train.proof.losses import items, losses
from launcher.train.proof.suspects import (
    ALL_OFF,
    Finding,
    batchnorm,
    data,
    editions,
    kernels,
    randomness,
    work_of_ranks,
)

_CHANGED = 1e-3  # relative change of the error that says that a switch has to do with it
_LEFT = 1e-5  # of the error that may be left for a suspect to have explained it


@dataclass(frozen=True)
class Diagnosis:
    """The causes that were found, and what was tested and is none."""

    causes: tuple[Cause, ...]
    ruled_out: tuple[str, ...]


def diagnose(bench: Bench, measured: Measured) -> Diagnosis:
    """Find out why a window is not equivalent; all ranks must ask.

    Args:
        bench: the window.
        measured: what was measured of it as the user has it, in the bench's precision.
    """
    if measured.comparison.not_finite:
        return Diagnosis((_not_finite(measured),), ())
    bench.say("looking for BatchNorm and random numbers")
    suspects = {"batch_statistics": batchnorm(bench), "chance": randomness(bench)}
    trial = _Trial(bench, measured, {name: finding for name, finding in suspects.items() if finding})
    causes = list(trial.causes())
    ruled_out = [
        *([] if suspects["batch_statistics"] else ["no BatchNorm layer takes statistics from a micro-batch"]),
        *([] if suspects["chance"] else ["nothing draws random numbers in a forward pass"]),
    ]
    if trial.explained:
        return Diagnosis(tuple(causes), tuple(ruled_out))
    for what, found in _deeper(bench, trial.off):
        causes += [finding.as_cause(error_with=finite(trial.off.comparison.judged)) for finding in found]
        ruled_out += [] if found else [what]
        if found:
            break
    return Diagnosis(tuple(causes), tuple(ruled_out))


class _Trial:
    """The suspects that can be switched off: what the error is with each of them alone, and with none.

    Args:
        bench: the window.
        measured: with all of them.
        suspects: the switch of each, and what is known of it.
    """

    def __init__(self, bench: Bench, measured: Measured, suspects: dict[str, Finding]) -> None:
        self._bench = bench
        self._measured = measured
        self._suspects = suspects
        self.off = bench.measure(ALL_OFF) if suspects else measured

    @property
    def explained(self) -> bool:
        """Whether nothing is left of the error without them."""
        left, before = self.off.comparison.judged, self._measured.comparison.judged
        return left <= max(self._bench.tolerance, _LEFT * before)

    def causes(self) -> Iterator[Cause]:
        """Those that the error has to do with."""
        left = self.off.comparison.judged
        for switch, finding in self._suspects.items():
            alone = self._with_only(switch)
            if alone > self._bench.tolerance and abs(alone - left) > _CHANGED * max(alone, left):
                yield finding.as_cause(finite(alone), finite(left))

    def _with_only(self, switch: str) -> float:
        if len(self._suspects) == 1:
            return self._measured.comparison.judged
        return self._bench.measure(replace(ALL_OFF, **{switch: True})).comparison.judged


def _deeper(bench: Bench, off: Measured) -> Iterator[tuple[str, list[Finding]]]:
    """The tests of what cannot be switched off; each needs those before it to be ruled out."""
    bench.say("making the same batch twice")
    yield "the same samples make the same batch each time", _listed(data(bench))
    bench.say("taking the same micro-batch on every rank")
    yield "the ranks make the same of the same samples", _listed(work_of_ranks(bench))
    bench.say("taking the same micro-batch twice")
    yield "the same samples and the same seed give the same gradient", _listed(kernels(bench))
    yield "all ways of writing the losses give the same gradient", _listed(editions(bench))
    bench.say("adding up the losses of parts of the window")
    counted = _listed(items(bench))
    yield "every loss is a mean over the items that are counted, or a sum", counted + losses(bench, off.losses)


def _listed(finding: Finding | None) -> list[Finding]:
    return [finding] if finding else []


def _not_finite(measured: Measured) -> Cause:
    parameters = measured.comparison.not_finite
    lost = [loss.name for loss in measured.losses if loss.accumulated is None and measured.shape.items[loss.name]]
    what = f"the loss {', '.join(lost)} is" if lost else "the losses are finite, but gradients are"
    return Cause(
        kind="not finite",
        finding="gradients are not finite numbers, so that they cannot be compared",
        places=_few(parameters),
        evidence=f"{what} not finite in the first window",
        cure="Look for a division by zero, a logarithm of zero or an overflow in the loss",
    )


def _few(names: Iterable[str], most: int = 5) -> tuple[str, ...]:
    every = tuple(names)
    return every if len(every) <= most else (*every[:most], f"and {len(every) - most} more")
