"""The keys of DeepSpeed's configuration: those that the installed one knows, and what is said of others."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from launcher.plan.deepspeed_keys import KNOWN, OTHER_NAMES, REMOVED, slips
from tests.processes import ROOT, clean_environment


@pytest.fixture(scope="module")
def deepspeed() -> dict[str, Any]:
    """What the installed DeepSpeed says of its keys."""
    command = [sys.executable, "-m", "tests.plan.deepspeed_knows"]
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment(DS_ACCELERATOR="cpu"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    known: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return known


def test_top_level_keys_are_those_that_deepspeed_reads(deepspeed: dict[str, Any]) -> None:
    listed = {*KNOWN[""], *OTHER_NAMES[""], *REMOVED[""]}
    of_initialize = {"data_parallel_size", "sequence_parallel_size"}  # which reads them before there is a config
    assert listed == {*deepspeed["top"], *of_initialize}
    assert sorted(REMOVED[""]) == deepspeed["removed"]


def test_keys_of_sections_are_those_of_deepspeeds_models(deepspeed: dict[str, Any]) -> None:
    assert deepspeed["sections"].keys() == KNOWN.keys() - {""}
    for section, names in deepspeed["sections"].items():
        assert {name for name, meant in names.items() if name == meant} == set(KNOWN[section]), section
        others = {name: meant for name, meant in names.items() if meant and name != meant}
        assert others == OTHER_NAMES.get(section, {}), section
    out_of_use = [name for name, meant in deepspeed["sections"]["zero_optimization"].items() if not meant]
    assert sorted(REMOVED["zero_optimization"]) == sorted([*deepspeed["removed of ZeRO"], *out_of_use])


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"gradient_cliping": 1.0}, "gradient_cliping: is no key of DeepSpeed 0.19. Did you mean gradient_clipping?"),
        ({"overlap_comm": True}, "overlap_comm: is no key of DeepSpeed 0.19. Did you mean zero_optimization.overlap_"),
        ({"zero": {"stage": 2}}, "zero: is no key of DeepSpeed 0.19. Delete it."),
        ({"nebula": {}}, "nebula: is of no use to DeepSpeed 0.19 any more. Delete it."),
        ({"zero_optimization": {"overlap_com": True}}, "zero_optimization.overlap_com: is no key of DeepSpeed 0.19. D"),
        ({"zero_optimization": {"cpu_offload_params": True}}, "Did you mean offload_param?"),
        ({"zero_optimization": {"mics_shard_size": 2}}, "mics_shard_size: is of no use to DeepSpeed 0.19 any more."),
        ({"zero_optimization": {"offload_optimizer": {"pinmemory": True}}}, "Did you mean pin_memory?"),
        ({"bfloat16": {"enable": True}}, "bfloat16.enable: is no key of DeepSpeed 0.19. Did you mean enabled?"),
    ],
)
def test_a_slip_is_told_with_what_was_meant(config: dict[str, Any], said: str) -> None:
    (mistake,) = slips(config, "config")
    assert said in str(mistake)
    assert str(mistake).startswith("config.")


def test_what_deepspeed_knows_is_no_slip() -> None:
    config = {
        "comms_logger": {"enabled": True, "whatever": 1},
        "zero_optimization": {"prefetch_bucket_size": 1, "stage3_max_live_parameters": 2, "cpu_offload": True},
        "bfloat16": {"immediate_grad_update": True},
        "fp16": {"loss_scale": 0},
    }
    assert not list(slips(config, "config"))
