"""Models that DeepSpeed would train otherwise than they are written."""

from __future__ import annotations

import pytest
from torch import nn

from launcher.errors import RequestError
from tests.tasks.tiny import Tiny
from tests.train.test_micro_search import job_of


class Wide(Tiny):
    """Has one layer in float64."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1).double())


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_model_in_float64_is_refused(stage: int) -> None:
    with pytest.raises(RequestError) as caught:
        job_of(Wide(), {"global": 8, "micro": 4}, parallel={"engine": "deepspeed", "deepspeed": {"stage": stage}})
    assert str(caught.value) == (
        "parallel.engine: the parameter 1.weight is in float64, and DeepSpeed trains in fp32 at the most. "
        "Return the model as .float(), or set parallel.engine=ddp."
    )
