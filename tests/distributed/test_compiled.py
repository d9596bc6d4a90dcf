"""Ranks agree about a compiled model: all end with what one of them has found, and none waits for the others."""

from __future__ import annotations

import pytest

from tests.distributed.compiled import ENGINES
from tests.distributed.worlds import Worlds


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """World size → what each rank found."""
    return Worlds("tests.distributed.compiled", tmp_path_factory.mktemp("compiled"))


@pytest.mark.parametrize("engine", ENGINES)
def test_all_ranks_end_with_what_one_has_found(found: Worlds, engine: str) -> None:
    for results in found[2]:
        wrong = results[engine]["wrong on one rank"]
        assert wrong["said"].startswith("train.compile: PyTorch ")
        assert wrong["said"].endswith(
            " compiles this model wrongly on rank 1: the gradient of first.weight differs by 100% from that of the "
            "model as it is written. Set train.compile=false."
        )
        assert wrong["updates"] == 0
        assert "compiles this model wrongly: the gradient of" in results[engine]["wrong, and drops"]["said"]


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_of_the_comparison_is_reduced(found: Worlds, engine: str) -> None:
    for results in found[2]:
        for kind in ("right", "right, and one rank has no samples"):
            assert results[engine][kind] == {"said": "", "updates": 2, "calls": [1, 1]}
