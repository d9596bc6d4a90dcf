"""GPT-2 on packed tokens, which prepare.py writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from launcher import Task
from launcher.errors import Mistake, RequestError

HERE = Path(__file__).parent


class Gpt2(Task):
    """Predict the next token of each position of a block.

    Args:
        data: the folder that prepare.py wrote; a relative path starts here.
        context: tokens of a block.
        config: what differs from the GPT2Config of the smallest GPT-2, such as n_layer.
        eval_blocks: blocks of the validation data to measure on, spread evenly over it.
    """

    def __init__(
        self, data: str = "data", context: int = 1024, config: dict[str, Any] | None = None, eval_blocks: int = 512
    ) -> None:
        folder = HERE / data
        meta = read_meta(folder)
        self.train = Blocks(folder, "train", meta, context)
        self.validation = Blocks(folder, "val", meta, context, at_most=eval_blocks)
        no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # no text is seen often enough for it
        of_data = {"vocab_size": meta["vocabulary"], "bos_token_id": meta["end"], "eos_token_id": meta["end"]}
        self.config = {"n_positions": context, **of_data, **no_dropout, **(config or {})}

    def model(self) -> nn.Module:
        try:
            from transformers import GPT2Config, GPT2LMHeadModel  # here, as this takes seconds
        except ImportError as missing:
            cure = "Install it with: pip install transformers"
            raise RequestError([Mistake("task", f"GPT-2 needs transformers: {missing}", cure)]) from missing
        model: nn.Module = GPT2LMHeadModel(GPT2Config(**self.config, use_cache=False))
        return model

    def train_data(self) -> Blocks:
        return self.train

    def eval_data(self) -> Blocks:
        return self.validation

    def items(self, batch: Any) -> int:
        return int(batch[:, 1:].numel())  # tokens, so that tokens per second are logged

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        scores, targets = scores_and_targets(model, batch)
        return functional.cross_entropy(scores, targets)

    def evaluate(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        scores, targets = scores_and_targets(model, batch)
        losses = functional.cross_entropy(scores, targets, reduction="none")
        return {"loss": losses.view(len(batch), -1)}

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The recipe's weight decay is for matrices: decaying a bias or a norm's scale only does harm."""
        matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
        vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
        return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]


def scores_and_targets(model: nn.Module, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [batch × context, vocabulary] and the tokens [batch × context] that they are for."""
    return model(blocks[:, :-1]).logits.flatten(0, 1), blocks[:, 1:].flatten()


class Blocks:
    """Tokens of a file in blocks. A block ends with the token that the next one begins with: each is a target once.

    Args:
        folder: the folder that prepare.py wrote.
        part: train or val.
        meta: what it says of its files.
        context: tokens of a block that are inputs.
        at_most: so many blocks, spread evenly; None: all.
    """

    def __init__(self, folder: Path, part: str, meta: dict[str, Any], context: int, at_most: int | None = None) -> None:
        self.path, self.dtype, self.context = folder / f"{part}.bin", np.dtype(meta["dtype"]), context
        tokens = meta["tokens"][part]
        size = self.path.stat().st_size if self.path.exists() else 0
        if size != tokens * self.dtype.itemsize:
            raise unusable(f"{self.path} has {size:,} bytes, and {tokens:,} tokens of {self.dtype} were written")
        self.blocks: int = (tokens - 1) // context
        if self.blocks < 1:
            raise unusable(f"the {tokens:,} tokens of {self.path} are less than a block of {context:,} and one more")
        self.length: int = min(self.blocks, at_most or self.blocks)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        """int64, [context + 1]; mapped anew each time, so that no process keeps pages that it has read."""
        first = index * self.blocks // self.length * self.context
        offset, shape = first * self.dtype.itemsize, (self.context + 1,)
        return torch.from_numpy(np.memmap(self.path, self.dtype, "r", offset, shape).astype(np.int64))


def read_meta(folder: Path) -> dict[str, Any]:
    """What prepare.py noted of the tokens in a folder; written last, so that with it all is there."""
    path = folder / "meta.json"
    if not path.exists():
        raise unusable(f"there are no tokens in {folder}")
    meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return meta


def unusable(why: str) -> RequestError:
    cure = "Write them with: python recipes/gpt2/prepare.py --help"
    return RequestError([Mistake("task.args.data", why, cure)])
