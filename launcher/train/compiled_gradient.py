"""The gradient of a compiled model, held against that of the model as it is written, before anything steps on it.

A compiler that is wrong says nothing. torch 2.13's gives convolutions in front of a MaxPool2d gradients of zero on a
CPU, and the run goes on, to a loss that nobody would call wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch

from launcher.errors import Mistake, RequestError
from launcher.train.accumulation import LoadedWindow
from launcher.train.engines.gradients import l2_norm, trained
from launcher.train.job import Job
from launcher.train.trial_passes import Gradients, TrialPasses
from launcher.words import plural

Say = Callable[[str], None]


@dataclass(frozen=True)
class Rounding:
    """What rounding may do to a gradient.

    Attributes:
        own: a part of the norm of a parameter's gradient. One ReLU whose input is moved across zero changes it by
            several per cent (in fp32 by 4 %: measured, a small ResNet).
        whole: a part of the norm of the whole gradient. Of a bias in front of a normalisation, whose gradient is zero,
            rounding is all that there is: in fp32 2e-7 of the whole, in bf16 8e-5 (measured, six convolutions).
        number: a part of a number that is rounded, several times over.
    """

    own: float
    whole: float
    number: float


FINE = Rounding(own=0.1, whole=1e-5, number=1e-6)
COARSE = Rounding(own=0.25, whole=1e-3, number=4e-3)
_TIMES = 4  # as far as a disturbance moves a gradient: further is no rounding


def hold_to_written(job: Job, loaded: LoadedWindow, say: Say) -> None:
    """Make sure, on one real micro-batch, that what was compiled of a model has the gradient of the model.

    Each rank takes a micro-batch of its own forward and backward twice, from the same parameters, buffers and random
    numbers, and reduces nothing; all of them are afterwards as they were. What is compiled for it serves the training.
    What is compiled later for micro-batches of other shapes, as those of a tail, is not looked at.

    Where the two differ, the model as it is written is taken once more, with parameters that are wrong in their last
    digits: what that does to the gradient, as it does much to that of a deep network with BatchNorm, is rounding.

    Compilers draw other random numbers. A model that draws any (dropout) is compared in evaluation mode, but for layers
    that compute otherwise in it: then what is compiled for the training itself is not looked at.

    Args:
        job: this rank's job.
        loaded: the first window that has items.
        say: takes a sentence that the user should read.

    Raises:
        RequestError: they differ on a rank; all ranks raise the same.
    """
    passes = TrialPasses(job, loaded)
    written = passes.run()
    quiet = written.drew
    if quiet and not written.ran_out:
        written = passes.run(quiet=True)
    if written.ran_out:
        say(_not_compared("memory does not hold a micro-batch of the model as it is written"))
        return
    if written.drew:
        say(_not_compared("the model draws random numbers in evaluation mode too"))
        return
    compiled = passes.run(compiled=True, quiet=quiet)
    if compiled.ran_out:
        return  # the training says so, and may go on with a smaller one
    rounding = _rounding(job)
    if any(job.engine.gather(difference_of(written.gradients, compiled.gradients, rounding))):
        disturbed = passes.run(quiet=quiet, disturbed=rounding.number)
        known = None if disturbed.ran_out else disturbed.gradients
        _refuse(job.engine.gather(difference_of(written.gradients, compiled.gradients, rounding, known)))


def _not_compared(why: str) -> str:
    return f"train.compile: the gradient of what was compiled is not compared with that of the model itself: {why}"


def _rounding(job: Job) -> Rounding:
    train, formats = job.plan.recipe.train, {parameter.dtype for parameter in trained(job.engine.model)}
    whole = train.precision == "fp32" and not train.tf32 and formats <= {torch.float32, torch.float64}
    return FINE if whole else COARSE


def _refuse(differences: list[str]) -> None:
    """End with what the first rank has found, if any has."""
    for rank, difference in enumerate(differences):
        if difference:
            where = "" if all(differences) else f" on rank {rank}"
            what = f"PyTorch {torch.__version__} compiles this model wrongly{where}: {difference}"
            raise RequestError([Mistake("train.compile", what, "Set train.compile=false")])


def difference_of(
    written: Gradients, compiled: Gradients, rounding: Rounding, disturbed: Gradients | None = None
) -> str:
    """Where two gradients of a model differ by more than rounding, as a clause; empty where they do not.

    A gradient that is not finite as the model is written tells nothing: fp16 begins with scales that are too large.

    Args:
        written: name of each parameter → its gradient, of the model as it is written.
        compiled: the same of the compiled model.
        rounding: what it may do.
        disturbed: the gradient of the model as it is written, with rounding in its parameters; None looks without it.
    """
    norms = {name: float(l2_norm(gradient)) for name, gradient in written.items()}
    known = {name: norm for name, norm in norms.items() if math.isfinite(norm)}
    whole = math.hypot(*known.values())
    moved = _moved(written, disturbed, known) if disturbed is not None else {}
    off: dict[str, float] = {}
    for name, norm in known.items():
        allowed = rounding.own * norm + rounding.whole * whole + _TIMES * moved.get(name, 0.0)
        if not compiled[name].any():
            allowed = FINE.whole * whole  # nothing at all is what no rounding makes of something
        apart = float(l2_norm(compiled[name] - written[name]))
        if not apart <= allowed:  # nor where it is not finite
            off[name] = apart / norm if norm else math.inf
    return _described(off)


def _moved(written: Gradients, disturbed: Gradients, norms: Mapping[str, float]) -> dict[str, float]:
    """How far a disturbance moves the gradient of each parameter: as it did, or as it did the middle one of all.

    A parameter of few numbers may by chance have stayed where it was.
    """
    moved = {name: float(l2_norm(disturbed[name] - written[name])) for name in norms}
    moved = {name: by if math.isfinite(by) else math.inf for name, by in moved.items()}
    middle = median([by / norms[name] for name, by in moved.items() if norms[name]] or [0.0])
    return {name: max(by, middle * norms[name]) if norms[name] else by for name, by in moved.items()}


def _described(off: Mapping[str, float]) -> str:
    """Names of parameters → by which part of their norm their gradients are off, as a clause."""
    if not off:
        return ""
    (name, part), others = next(iter(off.items())), len(off) - 1
    by = f" by {part:.0%}" if math.isfinite(part) else ""
    more = f", as {'do those' if others > 1 else 'does that'} of {plural(others, 'other')}" if others else ""
    return f"the gradient of {name} differs{by} from that of the model as it is written{more}"
