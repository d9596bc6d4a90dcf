"""Two gradients of the same model side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from launcher.rundir.proof import ParameterError, Precision

TOLERANCES: dict[Precision, float] = {"float32": 1e-5, "float64": 1e-9}
# A parameter whose gradient is small beside the others' hides in the error over all of them. Its own error is looked
# at where the difference is too large a share of the whole gradient to be rounding, and is judged more leniently:
# a gradient that cancels out to little has lost digits.
_ROUNDING_SHARE: dict[Precision, float] = {"float32": 1e-6, "float64": 1e-12}
_OWN_TOLERANCE: dict[Precision, float] = {"float32": 1e-2, "float64": 1e-6}
_MOST_PARAMETERS = 5

Gradient = Mapping[str, Tensor]
"""Name of a parameter → its gradient, on the CPU; a parameter that is left out has none, which counts as zero."""


@dataclass(frozen=True)
class Comparison:
    """How far a gradient is from the true one.

    Attributes:
        error: ‖found − true‖ / ‖true‖ over all parameters; NaN where one of them is not finite.
        judged: the error to hold against the tolerance: the same, or a parameter's own where that gives it away.
        worst: the parameters that add most to the error, the worst first.
        not_finite: parameters with a gradient that is not finite.
    """

    error: float
    judged: float
    worst: tuple[ParameterError, ...]
    not_finite: tuple[str, ...]


def take_gradient(model: nn.Module) -> dict[str, Tensor]:
    """The gradient that a model holds, copied to the CPU; the model has none afterwards."""
    taken = {
        name: parameter.grad.detach().to("cpu", copy=True)
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    model.zero_grad(set_to_none=True)
    return taken


def compare(found: Gradient, true: Gradient, precision: Precision) -> Comparison:
    """Hold a gradient against the true one.

    Args:
        found: the gradient.
        true: the true one.
        precision: the number format that they were computed in.
    """
    names = list(dict.fromkeys([*true, *found]))
    norms = {name: _norms(found.get(name), true.get(name)) for name in names}
    whole = math.hypot(*(true_norm for _, true_norm in norms.values()))
    error = _ratio(math.hypot(*(difference for difference, _ in norms.values())), whole)
    own = {name: _ratio(*pair) for name, pair in norms.items()}
    shares = {name: _ratio(difference, whole) for name, (difference, _) in norms.items()}
    given_away = [
        own[name]
        for name in names
        if shares[name] > _ROUNDING_SHARE[precision] and own[name] > _OWN_TOLERANCE[precision]
    ]
    order = sorted(names, key=lambda name: shares[name] if math.isfinite(shares[name]) else math.inf, reverse=True)
    return Comparison(
        error=error,
        judged=max([error, *given_away]),
        worst=tuple(
            ParameterError(name=name, error=finite(own[name]), share=finite(shares[name]))
            for name in order[:_MOST_PARAMETERS]
        ),
        not_finite=tuple(name for name, pair in norms.items() if not all(map(math.isfinite, pair))),
    )


def difference(found: Gradient, true: Gradient) -> float:
    """‖found − true‖ / ‖true‖ over all parameters."""
    norms = [_norms(found.get(name), true.get(name)) for name in dict.fromkeys([*true, *found])]
    return _ratio(math.hypot(*(pair[0] for pair in norms)), math.hypot(*(pair[1] for pair in norms)))


def finite(value: float) -> float | None:
    """The value, or None where it is not finite, as JSON has it."""
    return value if math.isfinite(value) else None


def _norms(found: Tensor | None, true: Tensor | None) -> tuple[float, float]:
    """‖found − true‖ and ‖true‖, in float64."""
    if found is None and true is None:
        return 0.0, 0.0
    other = true if true is not None else torch.zeros_like(found)  # type: ignore[arg-type]  # one of them is there
    own = found if found is not None else torch.zeros_like(other)
    wide = torch.promote_types(other.dtype, torch.float64)
    other = other.to(wide)
    return float(torch.linalg.vector_norm(own.to(wide) - other)), float(torch.linalg.vector_norm(other))


def _ratio(part: float, whole: float) -> float:
    """The part in the whole: zero of nothing where both are zero, and infinite where only the whole is."""
    if whole == 0:
        return part and math.inf
    return part / whole
