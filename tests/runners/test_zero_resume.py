"""Runs under DeepSpeed that end before their time go on: bit for bit on the same ranks, and right on others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from launcher.worker.checkpoint_files import MODEL, OPTIMIZER
from launcher.worker.kept_tensors import KeptTensors
from tests.faults.table import Kind
from tests.metrics import comparable_rows
from tests.processes import launcher

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
MORTAL = "tests/tasks/mortal.yaml"
UPDATES = 20
IN_UPDATE_7 = {2: "1:20", 3: "2:13"}  # world size → KILL; by then rank 0 has saved update 4


def run(runs: Path, run_id: str, *arguments: str, env: Mapping[str, str] | None = None, expected: int = 0) -> str:
    settings = ("launch.restarts=0", *arguments)
    done = launcher("run", MORTAL, "--runs", str(runs), "--run-id", run_id, *settings, env=env, timeout=300)
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout + done.stderr


def zero(stage: int, *more: str) -> tuple[str, ...]:
    return ("parallel.engine=deepspeed", f"parallel.deepspeed.stage={stage}", *more)


def short(settings: tuple[str, ...]) -> str:
    """`stage3_precisionbf16`."""
    return "_".join(setting.rpartition(".")[2].replace("=", "") for setting in settings[1:])


def last_checkpoint(runs: Path, run_id: str) -> Path:
    return runs / run_id / "checkpoints" / f"step_{UPDATES:08d}"


def state(runs: Path, run_id: str) -> dict[str, bytes]:
    """The files of the last checkpoint of a run, but the one that says who wrote it."""
    folder = last_checkpoint(runs, run_id)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "MANIFEST.json"}


def rows(runs: Path, run_id: str) -> list[dict[str, Any]]:
    """The rows of a run, without what a clock has measured.

    Nor what was gathered: in the first update of each launch stage 3 learns which parameters to gather together.
    """
    gathers = ("comm/allgather_calls", "comm/allgather_bytes")
    return [{key: row[key] for key in row if key not in gathers} for row in comparable_rows(runs / run_id)]


def tensors(runs: Path, run_id: str) -> dict[str, Any]:
    folder = last_checkpoint(runs, run_id)
    return {
        name: tensor
        for what in (MODEL, OPTIMIZER)
        for name, tensor in KeptTensors(folder, what, {}).whole().tensors.items()
    }


@pytest.mark.fault(
    Kind.PROCESS,
    "a rank dies in an update, under each ZeRO stage",
    by="SIGKILL; --resume auto",
    outcome="resumed: the last checkpoint bit for bit that of an undisturbed run, and its rows",
)
@pytest.mark.parametrize(
    ("world", "settings"),
    [
        (2, zero(0)),
        (2, zero(1)),
        (2, zero(2)),
        (3, zero(2)),
        (2, zero(3)),
        (3, zero(3)),
        (2, zero(2, "parallel.deepspeed.offload_optimizer=true")),
        (2, zero(3, "parallel.deepspeed.offload_optimizer=true", "parallel.deepspeed.offload_parameters=true")),
        (2, zero(1, "train.precision=bf16")),
        (2, zero(2, "train.precision=bf16")),
        (2, zero(3, "train.precision=bf16")),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else short(value),
)
def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path: Path, world: int, settings: tuple[str, ...]) -> None:
    job = (f"launch.nproc_per_node={world}", *settings)
    run(tmp_path, "whole", *job)
    assert "was killed by SIGKILL" in run(tmp_path, "killed", *job, env={"KILL": IN_UPDATE_7[world]}, expected=3)
    assert "resumed after update" in run(tmp_path, "killed", *job, "--resume", "auto")
    assert rows(tmp_path, "killed") == rows(tmp_path, "whole")
    assert state(tmp_path, "killed") == state(tmp_path, "whole")


@pytest.mark.fault(
    Kind.WORLD,
    "a run goes on under other engines, ZeRO stages and numbers of ranks, one after the other",
    by="SIGKILL of a rank; --resume auto with other settings",
    outcome="parameters and optimizer state those of an undisturbed DDP run, within 1e-5",
)
def test_a_run_goes_on_under_another_stage_on_other_ranks(tmp_path: Path) -> None:
    task = "task.entry=mortal.py:Steady"
    run(tmp_path, "whole", task, "launch.nproc_per_node=2")
    run(tmp_path, "it", task, "launch.nproc_per_node=2", *zero(1), env={"KILL": "1:20"}, expected=3)
    again = ("--resume", "auto")
    run(tmp_path, "it", task, "launch.nproc_per_node=3", *zero(3), *again, env={"KILL": "2:13"}, expected=3)
    run(tmp_path, "it", task, "launch.nproc_per_node=1", *again, env={"KILL": "0:30"}, expected=3)
    assert "resumed after update" in run(tmp_path, "it", task, "launch.nproc_per_node=2", *zero(2), *again)
    expected, found = tensors(tmp_path, "whole"), tensors(tmp_path, "it")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
    exported = tmp_path / "model.safetensors"
    assert launcher("export", str(tmp_path / "it"), "--to", str(exported)).returncode == 0
    assert load_file(exported).keys() == KeptTensors(last_checkpoint(tmp_path, "it"), MODEL, {}).like.keys()
