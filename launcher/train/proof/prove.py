"""The proof of a recipe: one window accumulated over its ranks, and the same samples as one batch.

compare what the ranks built
accumulate the window over the ranks, take it as one batch on rank 0, compare the gradients
if they differ by more than rounding of float32 explains, do both again in float64
if they differ still, find out why
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from launcher.plan.planner import Plan
from launcher.rundir.proof import Proof
from launcher.train.job import Materials
from launcher.train.proof import unlike_ranks
from launcher.train.proof.bench import Bench, Measured
from launcher.train.proof.comparison import TOLERANCES, finite
from launcher.train.proof.diagnosis import Diagnosis, diagnose
from launcher.train.proof.ranks import Ranks

# In float64 a model may compute parts of itself in float32 all the same. A difference that is rounding falls with the
# precision; one that has a cause stays.
_MOST_ROUNDING = 1e-2
_FALL = 1e-2
_OF_ROUNDING = 10.0  # times what another order of the samples makes is still called rounding


def prove(plan: Plan, materials: Materials, device: torch.device, rank: int, say: Callable[[str], None]) -> Proof:
    """Prove, on every rank, that accumulation gives the gradient of one batch, or find out why it does not.

    Args:
        plan: the plan, with the facts of the materials.
        materials: the user's objects.
        device: the device of this rank.
        rank: this rank; with more than one, the process group must be up.
        say: tells what is being done.

    Returns:
        The same proof on every rank.
    """
    ranks = Ranks(rank, plan.topology.world_size)
    unlike = unlike_ranks.parameters(materials.model, ranks)
    bench = Bench(plan, materials, device, ranks, say)
    first = final = bench.measure()
    notes = list(_notes(plan, first))
    equivalent = first.comparison.judged <= bench.tolerance
    if not equivalent and not first.comparison.not_finite:
        refusal = bench.use_double()
        if refusal:
            rounding = bench.rounding()
            equivalent = first.comparison.judged <= min(_MOST_ROUNDING, _OF_ROUNDING * rounding)
            notes += [f"the model does not run in float64, which would tell rounding apart: {refusal}"]
            notes += [_SHUFFLED.format(rounding)] if equivalent else []
        else:
            final = bench.measure()
            equivalent = _is_rounding(first, final)
            notes += [_ROUNDED] if equivalent else []
    diagnosis = Diagnosis() if equivalent else diagnose(bench, final)
    of_ranks = (unlike.as_cause(error_without=finite(first.comparison.error)),) if unlike else ()
    return Proof(
        recipe=plan.recipe.name,
        equivalent=equivalent and not unlike,
        error=finite(final.comparison.error),
        tolerance=bench.tolerance,
        precision=bench.precision,
        float32_error=finite(first.comparison.error) if final is not first else None,
        worst_parameters=final.comparison.worst,
        losses=final.losses,
        all_reduces=first.all_reduces,
        shape=final.shape,
        causes=(*of_ranks, *diagnosis.causes),
        ruled_out=diagnosis.ruled_out,
        notes=tuple(notes),
    )


_ROUNDED = "rounding alone is more than the tolerance of float32 here: in float64 the difference is gone"
_SHUFFLED = "it is rounding all the same: one batch in another order differs by {:.1e} from itself"


def _is_rounding(first: Measured, final: Measured) -> bool:
    """Whether a difference in float32 is gone in float64."""
    before, now = first.comparison.judged, final.comparison.judged
    falls = before < _MOST_ROUNDING and now <= min(TOLERANCES["float32"], _FALL * before)
    return now <= TOLERANCES["float64"] or falls


def _notes(plan: Plan, measured: Measured) -> Iterator[str]:
    shape = measured.shape
    if sum(shape.micro_steps) == 1:
        yield "the window is one micro-batch on one rank: there was nothing to accumulate"
    reduced = measured.all_reduces
    if reduced.bytes != reduced.planned_bytes:
        yield f"{reduced.bytes:,} bytes of gradients were reduced, and the plan says {reduced.planned_bytes:,}"
    if shape.slices > 1:
        yield (
            f"{shape.samples:,} samples at once do not fit into memory: the reference is {shape.slices} slices of "
            f"{shape.slice_samples:,} at most, summed in float64"
        )
    if plan.recipe.train.precision != "fp32":
        yield (
            f"proved without the recipe's {plan.recipe.train.precision}, whose rounding is larger than any difference "
            "that accumulation makes"
        )
    if plan.recipe.train.compile:
        yield "proved without train.compile: what a compiler makes of the model is not looked at"
