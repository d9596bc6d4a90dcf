"""Why an accumulated gradient is not that of one batch: every suspect tried by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from launcher.rundir.proof import Cause
from launcher.train.proof import losses, repeats, unlike_ranks
from launcher.train.proof.bench import Bench, Measured
from launcher.train.proof.comparison import Comparison, finite
from launcher.train.proof.finding import Finding
from launcher.train.proof.switchable import batchnorm, randomness
from launcher.train.proof.switches import ALL_OFF

_CHANGED = 1e-3  # relative change of the error that says that a switch has to do with it
_LEFT = 1e-5  # part of the error that may be left when it is called explained


@dataclass(frozen=True)
class Diagnosis:
    """The causes that were found, and what was tested and is none."""

    causes: tuple[Cause, ...] = ()
    ruled_out: tuple[str, ...] = ()


def diagnose(bench: Bench, measured: Measured) -> Diagnosis:
    """Find out why a window is not equivalent; all ranks must ask.

    Args:
        bench: the window.
        measured: what was measured of it as the user has it, in the bench's precision.
    """
    if measured.comparison.not_finite:
        return Diagnosis((_not_finite(measured).as_cause(),))
    bench.say("looking for BatchNorm and random numbers")
    suspects = {"batch_statistics": batchnorm(bench), "chance": randomness(bench)}
    trial = _Trial(bench, measured, {switch: finding for switch, finding in suspects.items() if finding})
    causes = list(trial.causes())
    ruled_out = [_INNOCENT[switch] for switch, finding in suspects.items() if not finding]
    if not trial.explained:
        for innocent, found in _deeper(bench, trial.off):
            if found:
                causes += [finding.as_cause(error_with=finite(trial.off.comparison.error)) for finding in found]
                break
            ruled_out.append(innocent)
    return Diagnosis(tuple(causes), tuple(ruled_out))


_INNOCENT = {
    "batch_statistics": "no BatchNorm layer takes statistics from a micro-batch",
    "chance": "nothing draws random numbers in a forward pass",
}


class _Trial:
    """The suspects that can be switched off: what the error is with each of them alone, and with none.

    Args:
        bench: the window.
        measured: with all of them.
        suspects: the switch of each, and what is known of it.

    Attributes:
        off: with none.
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
        left = self.off.comparison
        for switch, finding in self._suspects.items():
            alone = self._with_only(switch)
            changed = abs(alone.judged - left.judged) > _CHANGED * max(alone.judged, left.judged)
            if changed and not alone.judged <= self._bench.tolerance:
                yield finding.as_cause(finite(alone.error), finite(left.error))

    def _with_only(self, switch: str) -> Comparison:
        if len(self._suspects) == 1:
            return self._measured.comparison
        return self._bench.measure(replace(ALL_OFF, **{switch: True})).comparison


def _deeper(bench: Bench, off: Measured) -> Iterator[tuple[str, list[Finding]]]:
    """The tests of what cannot be switched off: what is ruled out, or what is found; each relies on those before."""
    bench.say("making the same batch twice")
    yield "the same samples make the same batch", _listed(repeats.data(bench))
    bench.say("taking the same micro-batch twice")
    yield "the same samples and seed give the same gradient", _listed(repeats.gradients(bench))
    bench.say("taking the same micro-batch on every rank")
    yield "all ranks make the same of the same samples", _listed(unlike_ranks.work(bench))
    bench.say("adding up the losses of parts of the window")
    if bench.plan.recipe.multitask.backward != "joint":
        yield "the edition gives the gradient of joint", _listed(losses.editions(bench))
    yield "losses are means over what is counted, or sums", losses.sums(bench, off.losses)


def _listed(finding: Finding | None) -> list[Finding]:
    return [finding] if finding else []


def _not_finite(measured: Measured) -> Finding:
    lost = [loss.name for loss in measured.losses if loss.accumulated is None and measured.shape.items[loss.name]]
    return Finding(
        "not finite",
        "gradients are not finite numbers, so that they cannot be compared",
        f"of the first window, not finite is the loss {', '.join(lost)}"
        if lost
        else "the losses themselves are finite",
        "Look for a division by zero, a root or a logarithm of zero, or an overflow",
        measured.comparison.not_finite,
    )
