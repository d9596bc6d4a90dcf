"""What the engine accelerate leaves to accelerate: the wrapper, and nothing that somebody else does already."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DynamoBackend
from torch import nn

from launcher.errors import RequestError
from launcher.recipe.parallel_section import ParallelSection
from launcher.train.engines.accelerate import AccelerateEngine, accelerator_for

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """accelerate keeps what it has found out for as long as its process lives."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def test_nothing_of_the_environment_makes_a_second_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """`accelerate launch` puts its config file there, and the launcher the accumulation, for scripts."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    accelerator = accelerator_for(CPU, ParallelSection(bucket_mb=0.5, find_unused_parameters=True))
    assert accelerator.gradient_accumulation_steps == 1
    assert (accelerator.mixed_precision, accelerator.native_amp, accelerator.scaler) == ("no", False, None)
    assert accelerator.state.dynamo_plugin.backend == DynamoBackend.NO
    assert accelerator.ddp_handler.to_kwargs() == {
        "bucket_cap_mb": 0.5, "find_unused_parameters": True, "gradient_as_bucket_view": True,
    }  # fmt: skip


def test_what_is_not_wrapped_by_ddp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    engine = AccelerateEngine.__new__(AccelerateEngine)
    engine.device = CPU
    with pytest.raises(RequestError, match=r"not DistributedDataParallel; in the environment: ACCELERATE_USE_FSDP"):
        engine._wrapped(nn.Linear(1, 1), ParallelSection())
