"""Buckets that are handed on while a backward fills them; tests/distributed/test_exact.py has them over ranks."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from launcher.train.engines.filling import FillingBuckets


def chain(length: int = 4) -> tuple[list[nn.Parameter], torch.Tensor]:
    """Parameters, and a product whose backward reaches the last of them first."""
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(length)]
    product = torch.ones(1)
    for parameter in parameters:
        product = product * parameter
    return parameters, product


def test_a_bucket_goes_before_the_backward_ends() -> None:
    parameters, product = chain()
    events: list[str] = []
    for index, parameter in enumerate(parameters):
        parameter.register_post_accumulate_grad_hook(lambda _, index=index: events.append(f"gradient {index}"))  # type: ignore[no-untyped-call]  # torch's
    filling = FillingBuckets([parameters[2:], parameters[:2]], lambda index: events.append(f"bucket {index}"))
    with filling.during_backward():
        product.backward()  # type: ignore[no-untyped-call]  # torch's
    assert events == ["gradient 3", "gradient 2", "bucket 0", "gradient 1", "gradient 0", "bucket 1"]
    assert filling.rest() == [False, False]
    assert len(events) == 6


def test_buckets_keep_their_order() -> None:
    """Another rank may fill them in this one."""
    parameters, product = chain()
    handed: list[int] = []
    filling = FillingBuckets([parameters[:1], parameters[1:]], handed.append)
    with filling.during_backward():
        product.backward()  # type: ignore[no-untyped-call]  # torch's
    assert handed == [0, 1]


def test_what_the_backward_does_not_fill_goes_at_the_end() -> None:
    parameters, product = chain()
    handed: list[int] = []
    unused = nn.Parameter(torch.ones(1))
    filling = FillingBuckets([parameters[2:], [unused], parameters[:2]], handed.append)
    for _ in range(2):
        with filling.during_backward():
            product.backward(retain_graph=True)  # type: ignore[no-untyped-call]  # torch's
        assert handed == [0]
        assert filling.rest() == [False, False, False]
        assert handed == [0, 1, 2]
        handed.clear()


def test_no_hook_is_left_behind() -> None:
    parameters, product = chain()
    handed: list[int] = []
    filling = FillingBuckets([parameters], handed.append)
    with filling.during_backward():
        pass
    product.backward()  # type: ignore[no-untyped-call]  # torch's
    assert not handed


def test_gradients_that_come_after_their_bucket_is_gone_are_told() -> None:
    layer, last = nn.Linear(2, 2), nn.Linear(2, 1)
    found = torch.ones(1, 2, requires_grad=True)
    for _ in range(2):
        found = checkpoint(layer, found, use_reentrant=True).tanh()
    handed: list[int] = []
    filling = FillingBuckets([list(last.parameters()), list(layer.parameters())], handed.append)
    with filling.during_backward():
        last(found).sum().backward()
    assert handed == [0, 1]
    assert filling.rest() == [False, True]
