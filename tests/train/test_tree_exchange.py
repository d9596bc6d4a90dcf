"""The whole sum of virtual ranks on one rank; on several it is tested by tests/distributed/test_exact.py."""

from __future__ import annotations

import torch

from launcher.train.engines.tree_exchange import TreeExchange


def test_a_zero_has_no_sign() -> None:
    """A rank that touches parameters to give them a gradient adds zeros, which take the sign of a zero away."""
    exchanged = TreeExchange(rank=0, world_size=1, virtual_ranks=2).add([[torch.tensor([-0.0, -1.0])]])
    assert torch.signbit(exchanged.sums[0]).tolist() == [False, True]
    assert (exchanged.calls, exchanged.bytes) == (0, 0)
