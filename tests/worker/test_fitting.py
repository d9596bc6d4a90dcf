"""What a run has found of its micro-batch is kept by the launch that holds it, and by no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.rundir.generation import Generation, StaleWriterError, take_over
from launcher.rundir.layout import RunDirectory
from launcher.worker.fitting import keeper


class Halved:
    """A micro-batch that was halved; what it is now does not matter."""

    plan: Any = None


def test_a_launch_whose_run_was_taken_over_keeps_nothing(tmp_path: Path) -> None:
    run, halved = RunDirectory(tmp_path), Halved()
    take_over(run)
    keep: Any = keeper(0, run, Generation(run))
    take_over(run)
    with pytest.raises(StaleWriterError):
        keep(halved)
    assert not run.fitting.exists()
    assert not run.plan.exists()
