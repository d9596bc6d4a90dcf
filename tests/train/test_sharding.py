from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from launcher.errors import RequestError
from launcher.train.engines.sharding import blocks_of, compute_again_in_backward, refuse_cut_ties


class Block(nn.Module):
    """Counts its forward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.dropout = nn.Dropout(0.5)
        self.passes = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.passes += 1
        kept: Tensor = self.dropout(self.linear(inputs)).tanh()
        return kept


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block())


def test_a_class_that_the_model_has_not_is_named_with_those_that_it_has() -> None:
    with pytest.raises(RequestError, match=r"the model has no Blok; its classes are Block, Linear, Dropout"):
        blocks_of(model(), ["Block", "Blok"])
    with pytest.raises(RequestError, match="it has no modules in it"):
        blocks_of(nn.Linear(1, 1), ["Block"])


def test_blocks_are_found_outer_ones_first() -> None:
    found = blocks_of(model(), ["Linear", "Block"])
    assert [type(block).__name__ for block in found] == ["Block", "Linear", "Block", "Linear"]
    assert blocks_of(model(), []) == []


def test_what_is_computed_again_has_the_same_gradient_and_the_same_names() -> None:
    plain, again = model(), model()
    compute_again_in_backward(blocks_of(again, ["Block", "Linear"]))
    assert [name for name, _ in again.named_parameters()] == [name for name, _ in plain.named_parameters()]
    inputs = torch.randn(4, 3)
    for net in (plain, again):
        torch.manual_seed(1)
        net(inputs).square().sum().backward()
    for mine, theirs in zip(again.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)  # type: ignore[arg-type]  # both have one
    assert [block.passes for block in plain] == [1, 1]
    assert [block.passes for block in again] == [2, 2]
    with torch.no_grad():
        again(inputs)
    assert [block.passes for block in again] == [3, 3]


class Tied(nn.Module):
    """A model of language: what reads the words has the weight of what writes them."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 3)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.words.weight


def inner_tie() -> Tied:
    tied = Tied()
    blocks = [block for block in tied.blocks if isinstance(block, Block)]
    blocks[1].linear.weight = blocks[0].linear.weight
    blocks[1].linear.bias = blocks[0].linear.bias
    return tied


def shared_block() -> Tied:
    tied = Tied()
    tied.blocks[1] = tied.blocks[0]
    return tied


@pytest.mark.parametrize(
    ("tied", "wrap"), [(Tied(), ()), (Tied(), ("Block", "Dropout")), (Tied(), ("Tied",)), (shared_block(), ("Block",))]
)
def test_what_shares_a_parameter_may_lie_in_one_block_or_in_none(tied: Tied, wrap: tuple[str, ...]) -> None:
    refuse_cut_ties(nn.ModuleDict({"model": tied}), blocks_of(tied, wrap))


@pytest.mark.parametrize(
    ("tied", "wrap", "said"),
    [
        (
            Tied(),
            ("Block", "Embedding"),
            "words.weight (in Embedding) and head.weight (in no block) are one parameter, which fsdp can gather in one "
            "place only. Leave Embedding out of it.",
        ),
        (
            Tied(),
            ("Embedding", "Linear"),
            "words.weight (in Embedding) and head.weight (in Linear) are one parameter, which fsdp can gather in one "
            "place only. Leave Embedding and Linear out of it.",
        ),
        (
            Tied(),
            ("Tied", "Embedding"),
            "words.weight (in Embedding) and head.weight (in Tied) are one parameter, which fsdp can gather in one "
            "place only. Leave Embedding out of it.",
        ),
        (
            inner_tie(),
            ("Block",),
            "blocks.0.linear.weight (in Block) and blocks.1.linear.weight (in Block) are one parameter, which fsdp can "
            "gather in one place only. Leave Block out of it.",
        ),
    ],
)
def test_a_parameter_that_would_be_in_two_places_is_named_with_the_cure(
    tied: Tied, wrap: tuple[str, ...], said: str
) -> None:
    with pytest.raises(RequestError) as caught:
        refuse_cut_ties(nn.ModuleDict({"model": tied}), blocks_of(tied, wrap))
    assert str(caught.value) == f"parallel.fsdp.wrap: {said}"
