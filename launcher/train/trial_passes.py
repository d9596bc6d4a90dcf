"""Forward and backward passes of a micro-batch that nothing comes of: everything is afterwards as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from launcher.train.accumulation import LoadedWindow
from launcher.train.compiling import as_written, called_by_tasks
from launcher.train.engines.gradients import trained
from launcher.train.job import Job
from launcher.train.kept_state import KeptBuffers, RandomState
from launcher.train.out_of_memory import let_go, ran_out

Gradients = Mapping[str, Tensor]
# In evaluation mode these compute otherwise, or have no backward pass (cuDNN's).
_STAY_IN_TRAINING = (nn.modules.batchnorm._NormBase, nn.RNNBase)


@dataclass(frozen=True)
class Pass:
    """What came of a forward and backward pass.

    Attributes:
        gradients: of this rank, by the names of the parameters, on the host.
        drew: whether the model, as it is written, drew random numbers on any rank.
        ran_out: whether memory ran out on any rank, so that not all have gradients.
    """

    gradients: Gradients
    drew: bool
    ran_out: bool


class TrialPasses:
    """Takes a micro-batch of this rank forward and backward, again and again from the same state.

    Nothing is reduced. After each pass parameters, buffers and random numbers are as before, and gradients gone.

    Args:
        job: this rank's job.
        loaded: a window that is not empty.
    """

    def __init__(self, job: Job, loaded: LoadedWindow) -> None:
        self._job = job
        self._model, self._device = job.engine.model, job.engine.device
        self._loaded = loaded
        self._buffers = KeptBuffers(self._model)
        self._buffers.keep()
        self._random = RandomState.of(self._device)

    def run(self, *, compiled: bool = False, quiet: bool = False, disturbed: float = 0.0) -> Pass:
        """One pass; all ranks must make it.

        Args:
            compiled: take the model as it was compiled, and not as it is written.
            quiet: in evaluation mode, where dropout draws nothing.
            disturbed: a part of their values by which the parameters are wrong meanwhile, as rounding might make them.
        """
        drew, failed = list[nn.Module](), False
        gradients: Gradients = {}
        try:
            with ExitStack() as stack:
                if quiet:
                    stack.enter_context(_evaluation(self._model))
                if disturbed:
                    stack.enter_context(_disturbed(self._model, disturbed))
                if not compiled:
                    stack.enter_context(as_written(self._model))
                    stack.enter_context(_draws(self._model, self._device, drew))
                self._job.accumulation.take_alone(self._loaded)
            gradients = _on_host(self._model)
        except Exception as error:
            if not ran_out(error):
                raise
            failed = True
        let_go(self._model, self._device)
        self._buffers.restore()
        self._random.restore(self._device)
        flags = torch.tensor([int(bool(drew)), int(failed)], dtype=torch.uint8)
        any_drew, any_failed = self._job.engine.reduce_over_ranks(flags, "max").read()
        return Pass(gradients, bool(any_drew), bool(any_failed))


def _on_host(model: nn.Module) -> Gradients:
    """The gradients of a model's parameters; of one that has none, zeros."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return {name: (torch.zeros_like(p) if p.grad is None else p.grad).detach().to("cpu") for name, p in named}


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, of all modules that compute the same in it but for what they draw."""
    put = [module for module in model.modules() if module.training and not isinstance(module, _STAY_IN_TRAINING)]
    for module in put:
        module.training = False
    try:
        yield
    finally:
        for module in put:
            module.training = True


@contextmanager
def _disturbed(model: nn.Module, part: float) -> Iterator[None]:
    """Change each number of each parameter by about such a part of it, for as long as the context lasts."""
    kept = [(parameter, parameter.detach().to("cpu", copy=True)) for parameter in trained(model)]
    with torch.no_grad():
        for number, (parameter, _) in enumerate(kept):
            generator = torch.Generator(parameter.device).manual_seed(number)
            noise = torch.empty_like(parameter).normal_(generator=generator)
            parameter.mul_(1 + part * noise)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, copy in kept:
                parameter.copy_(copy)


@contextmanager
def _draws(model: nn.Module, device: torch.device, found: list[nn.Module]) -> Iterator[None]:
    """Find those of the modules that are compiled that draw random numbers.

    What a task draws beside them it draws alike, whether they are compiled or not.
    """
    before: list[RandomState] = []

    def begins(module: nn.Module, arguments: Any) -> None:
        before.append(RandomState.of(device))

    def ends(module: nn.Module, arguments: Any, output: Any) -> None:
        if not before.pop().is_at(device):
            found.append(module)

    called = called_by_tasks(model)
    hooks = [hook for m in called for hook in (m.register_forward_pre_hook(begins), m.register_forward_hook(ends))]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
