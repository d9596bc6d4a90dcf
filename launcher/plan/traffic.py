"""What an update hands to the network: once, and in each of its micro-steps."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.plan.planner import Plan

_GATHER = 0.5  # of an all-reduce of as many bytes: each byte is sent once, and not twice


@dataclass(frozen=True)
class Traffic:
    """Bytes of one rank. What is sent in each micro-step grows with K, and no K hides it.

    Attributes:
        reduced_once: gradients reduced once per update.
        reduced_each: gradients reduced in each micro-step.
        gathered_once: parameters gathered once per update.
        gathered_each: parameters gathered for each micro-step.
    """

    reduced_once: int = 0
    reduced_each: int = 0
    gathered_once: int = 0
    gathered_each: int = 0

    @property
    def largest(self) -> int:
        """The most that goes over the network at one time."""
        return max(self.reduced_once, self.reduced_each, self.gathered_once, self.gathered_each)

    def per_update(self, accumulation: int) -> int:
        """Bytes of an update of so many micro-steps, reduced and gathered."""
        once, each = self.reduced_once + self.gathered_once, self.reduced_each + self.gathered_each
        return once + accumulation * each

    @property
    def once(self) -> float:
        """Bytes of an all-reduce that takes as long as what is sent once per update."""
        return self.reduced_once + _GATHER * self.gathered_once

    @property
    def each(self) -> float:
        """Bytes of an all-reduce that takes as long as what is sent in each micro-step."""
        return self.reduced_each + _GATHER * self.gathered_each


def traffic_of(plan: Plan) -> Traffic:
    """What the engine of a plan sends, as the plan counts it.

    Args:
        plan: a plan that knows the model's parameters; without, nothing is known to be sent.
    """
    reduction, steps = plan.reduction, plan.batch.accumulation
    if reduction is None or plan.topology.world_size == 1:
        return Traffic()
    zero, sharded = plan.zero_traffic, plan.sharded_cost
    if zero is not None:
        every_step = plan.recipe.parallel.abilities.reduces == "micro-step"
        reduced = {"reduced_each": zero.reduced_bytes // steps} if every_step else {"reduced_once": zero.reduced_bytes}
        whole = plan.recipe.parallel.deepspeed.stage < 3
        gathered = {"gathered_once": zero.gathered_bytes} if whole else {"gathered_each": zero.gathered_bytes // steps}
        return Traffic(**reduced, **gathered)
    if sharded is None:
        return Traffic(reduced_once=reduction.bytes_per_update)
    each = 0 if plan.recipe.parallel.fsdp.defer_reduction else reduction.bytes_without_no_sync // steps
    return Traffic(
        reduced_once=reduction.bytes_per_update - steps * each,
        reduced_each=each,
        gathered_each=reduction.gathered_bytes // steps,
    )
