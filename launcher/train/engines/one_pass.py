"""Blocks that a forward pass may run once only, since FSDP would lose a part of their gradient without an error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


class OnePass:
    """Watches that no block runs twice in a micro-step on inputs that have a gradient.

    FSDP takes a block's gradient when that of the block's inputs is there, which with two uses is too early (measured,
    torch 2.13). A block whose inputs have none is taken when the backward is over, however often it was used.

    Args:
        blocks: the modules.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self._kinds = {id(block): type(block).__name__ for block in blocks}  # before they are shared out and renamed
        self._watching = False
        self._used: dict[int, bool] = {}  # whether its inputs had a gradient
        for block in blocks:
            block.register_forward_pre_hook(self._before, with_kwargs=True)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """While a forward pass runs that is trained on; what a backward computes again is no use of its own."""
        self._used, self._watching = {}, True
        try:
            yield
        finally:
            self._watching = False

    def _before(self, block: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not self._watching:
            return
        inputs = tree_leaves((arguments, named))
        has_gradient = any(isinstance(value, Tensor) and value.requires_grad for value in inputs)
        again = id(block) in self._used
        self._used[id(block)] = has_gradient = has_gradient or self._used.get(id(block), False)
        if again and has_gradient:
            kind = self._kinds[id(block)]
            raise RuntimeError(
                f"a {kind} runs more than once in a micro-step, and fsdp would lose a part of its gradient. Leave "
                f"{kind} out of parallel.fsdp.wrap, or set parallel.engine=ddp"
            )
