"""Watching for numbers that are not finite: one of them in a step, and every parameter is lost from there on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import nn

from launcher.errors import LauncherError
from launcher.recipe.schema import NonFinite
from launcher.train.engines.parts import own_part
from launcher.train.step_result import StepResult

_CURE = "Lower optimizer.lr, clip by train.max_grad_norm, or leave such updates out by guard.non_finite=skip"


class NonFiniteError(LauncherError):
    """The training has come to numbers that are not finite; from the same checkpoint it would do so again."""


_MOST_IN_A_ROW = 32  # halvings of the scale of fp16 losses, which begins at 2^16


class FiniteGuard:
    """Ends a run whose loss or gradient is not finite, before anything of it is kept.

    What an update measured is read some updates later, by all ranks at once: nothing waits for it, and they end alike.
    It is always read before the state is kept. In fp16 what is not finite now and then is part of the method, but not
    update after update: the scale of the loss, halved each time, is then far below one.

    Args:
        mode: what the recipe says.
        half: whether the scaler of fp16 leaves such updates out.
    """

    def __init__(self, mode: NonFinite, half: bool) -> None:
        self._reads = mode == "stop"
        self._most = _MOST_IN_A_ROW if half else 1
        self._in_a_row = 0  # updates that were not finite
        self._checks = mode != "off"

    def after(self, result: StepResult) -> None:
        """To be called with the result of each update.

        Raises:
            NonFiniteError: its loss or its gradient was not finite.
        """
        found = ", ".join(_not_finite(result))
        self._in_a_row = self._in_a_row + 1 if found else 0
        if self._reads and self._in_a_row >= self._most:
            update = result.window.update + 1
            raise NonFiniteError(
                f"Update {update} is not finite: {found}. No checkpoint was written after it, and the run can go on "
                f"from the last one by --resume auto. {_CURE}."
            )

    def before_keeping(
        self, model: nn.Module, update: int, gather: Callable[[list[str]], list[list[str]]] | None = None
    ) -> None:
        """To be called before the state after an update (from 1) is kept; the host waits for the answer.

        Args:
            model: the model, of which this rank may have a part.
            update: the update.
            gather: tells all ranks what each has found, where each has another part: they end alike.

        Raises:
            NonFiniteError: the state must not be kept. A buffer may hold infinity: it masks what is not attended to.
        """
        if not self._checks:
            return
        names = _names_of_bad(model)
        if gather is not None:
            names = [name for of_rank in gather(names) for name in of_rank]
        if not names:
            return
        raise NonFiniteError(
            f"After update {update} {names[0]} is not finite, so no checkpoint was written. The run can go on from the "
            "last one by --resume auto. A buffer of BatchNorm keeps what it saw in an update that was left out."
        )


def _names_of_bad(model: nn.Module) -> list[str]:
    bad = [(name, ~own_part(values).isfinite().all()) for name, values in model.named_parameters()]
    bad += [(name, values.isnan().any()) for name, values in model.named_buffers()]
    if not bad or not bool(torch.stack([found for _, found in bad]).any()):
        return []
    return [name for name, found in bad if bool(found)]


def _not_finite(result: StepResult) -> Iterator[str]:
    for name, loss in result.losses.items():
        if not math.isfinite(loss):
            yield f"loss {loss}" if len(result.losses) == 1 else f"loss {name} {loss}"
    if result.grad_norm is not None and not math.isfinite(result.grad_norm):
        yield f"gradient norm {result.grad_norm}"
