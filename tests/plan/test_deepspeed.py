"""What DeepSpeed is told, and what a recipe may add to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.gradient_text import gradient_lines
from launcher.cli.plan_text import window_lines
from launcher.errors import RequestError
from launcher.launch import deepspeed as launching
from launcher.launch.build import build_launch
from launcher.launch.deepspeed import refuse_missing_deepspeed
from launcher.plan.planner import Plan, make_plan
from launcher.plan.topology import Machine, Topology
from launcher.rundir.layout import RunDirectory
from tests.recipe.folder import RECIPE, load, refusal

TOLD = """{
  "train_micro_batch_size_per_gpu": 2,
  "gradient_accumulation_steps": 2,
  "gradient_clipping": 0.0,
  "steps_per_print": null,
  "wall_clock_breakdown": false,
  "zero_allow_untested_optimizer": true,
  "zero_force_ds_cpu_optimizer": false,
  "zero_optimization": {
    "stage": 3,
    "reduce_bucket_size": 6553600,
    "allgather_bucket_size": 6553600,
    "offload_optimizer": {
      "device": "cpu"
    },
    "overlap_comm": false
  },
  "bf16": {
    "enabled": true,
    "check_grad_overflow": true
  },
  "fp16": {
    "enabled": false
  }
}
"""


def plan_of(folder: Path, *overrides: str, device: str = "cpu", world: int = 2) -> Plan:
    recipe = load(folder, RECIPE, "parallel.engine=deepspeed", *overrides).recipe
    return make_plan(recipe, Topology.model_validate({"nodes": 1, "nproc_per_node": world, "device": device}))


def config_of(folder: Path, *overrides: str) -> dict[str, Any]:
    run = RunDirectory(folder / "run")
    spec = build_launch(plan_of(folder, *overrides), run, Machine(cpus=8, gpus=0), {}, "python")
    assert spec.env["DS_ACCELERATOR"] == "cpu"
    config: dict[str, Any] = json.loads(spec.files[run.deepspeed_config])
    return config


def test_the_file_is_written_from_the_plan(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    settings = (
        "parallel.deepspeed={stage: 3, offload_optimizer: true, config: {zero_optimization: {overlap_comm: false}}}",
        "train.precision=bf16",
    )
    spec = build_launch(plan_of(tmp_path, *settings), run, Machine(cpus=8, gpus=0), {}, "python")
    assert spec.files[run.deepspeed_config] == TOLD


def test_other_engines_have_no_such_file(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    plan = plan_of(tmp_path, "parallel.engine=ddp")
    spec = build_launch(plan, run, Machine(cpus=8, gpus=0), {}, "python")
    assert run.deepspeed_config not in spec.files
    assert "DS_ACCELERATOR" not in spec.env


def test_one_process_has_a_local_rank(tmp_path: Path) -> None:
    """DeepSpeed asks for it, and `accelerate launch` tells one process nothing."""
    run, machine = RunDirectory(tmp_path / "run"), Machine(cpus=8, gpus=0)
    assert build_launch(plan_of(tmp_path, world=1), run, machine, {}, "python").env["LOCAL_RANK"] == "0"
    assert "LOCAL_RANK" not in build_launch(plan_of(tmp_path), run, machine, {}, "python").env


def test_clipping_is_always_written(tmp_path: Path) -> None:
    assert config_of(tmp_path)["gradient_clipping"] == 0.0  # left out, DeepSpeed clips at 1.0
    assert config_of(tmp_path, "train.max_grad_norm=0.5")["gradient_clipping"] == 0.5


def test_it_is_told_of_the_most_micro_steps_of_any_window(tmp_path: Path) -> None:
    settings = ("data.samples=100", "batch.schedule=[{global: 24, updates: 2}]")
    assert config_of(tmp_path, *settings)["gradient_accumulation_steps"] == 6


def test_what_agrees_is_merged(tmp_path: Path) -> None:
    added = "{train_batch_size: 8, gradient_clipping: auto, zero_optimization: {stage: 1, contiguous_gradients: false}}"
    config = config_of(tmp_path, f"parallel.deepspeed.config={added}")
    assert "train_batch_size" not in config  # DeepSpeed works it out from its own numbers
    assert config["gradient_clipping"] == 0.0
    assert config["zero_optimization"]["stage"] == 1
    assert config["zero_optimization"]["contiguous_gradients"] is False


def test_what_would_mix_up_checkpoints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"round_robin_gradients: is true, and the launcher sets false. Delete it"):
        config_of(tmp_path, "parallel.deepspeed.config={zero_optimization: {round_robin_gradients: true}}")


def test_what_agrees_by_another_name_is_told_by_the_name_of_today(tmp_path: Path) -> None:
    """DeepSpeed would ignore `bfloat16` beside `bf16`, and end on `cpu_offload` beside `offload_optimizer`."""
    added = (
        "{bfloat16: {enabled: false, immediate_grad_update: true}, allgather_size: 6553600, zero_optimization: "
        "{cpu_offload: true, cpu_offload_param: false, prefetch_bucket_size: 9}}"
    )
    config = config_of(tmp_path, "parallel.deepspeed.offload_optimizer=true", f"parallel.deepspeed.config={added}")
    assert config["bf16"] == {"enabled": False, "immediate_grad_update": True}
    assert config["zero_optimization"] == {
        "stage": 1,
        "reduce_bucket_size": 6553600,
        "allgather_bucket_size": 6553600,
        "offload_optimizer": {"device": "cpu"},
        "prefetch_bucket_size": 9,
    }
    assert not {"bfloat16", "allgather_size"} & config.keys()
    assert config_of(tmp_path, "parallel.deepspeed.config={zero_optimization: true}") == config_of(tmp_path)


def test_a_contradiction_and_a_slip_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        plan_of(tmp_path, "parallel.deepspeed.config={optimizer: {type: Adam}, scheduller: {}}")
    assert [mistake.key.rpartition(".")[2] for mistake in caught.value.mistakes] == ["optimizer", "scheduller"]


@pytest.mark.parametrize(
    ("added", "said"),
    [
        (
            "{gradient_clipping: 0.3}",
            "gradient_clipping: is 0.3, and by train.max_grad_norm it is 0.0. Delete it, and",
        ),
        ("{train_batch_size: 7}", "train_batch_size: is 7, and by batch.global it is 8."),
        (
            "{gradient_accumulation_steps: 1}",
            "gradient_accumulation_steps: is 1, and by batch.global and batch.micro it is 2.",
        ),
        (
            "{zero_optimization: {stage: 2}}",
            "zero_optimization.stage: is 2, and by parallel.deepspeed.stage it is 1.",
        ),
        (
            "{zero_optimization: {offload_optimizer: {device: nvme}}}",
            'offload_optimizer: is {"device": "nvme"}, and by parallel.deepspeed.offload_optimizer it is null.',
        ),
        ("{bf16: {enabled: true}}", "bf16.enabled: is true, and by train.precision it is false."),
        (
            "{optimizer: {type: Adam}}",
            'optimizer: cannot be {"type": "Adam"}: the recipe\'s section optimizer says it.',
        ),
        ("{managed_gradient_accumulation: false}", "cannot be false: the plan says where the window ends."),
        ("{steps_per_print: 10}", "steps_per_print: is 10, and the launcher sets null. Delete it."),
        ("{gradient_allreduce_op: sum}", 'is "sum", and the launcher sets "mean". Delete it.'),
        (
            "{bfloat16: {enabled: true}}",
            "config.bfloat16.enabled: is true, and by train.precision it is false. Delete it, and set train.precision.",
        ),
        (
            "{zero_optimization: {cpu_offload: true}}",
            "cpu_offload: is true, and by parallel.deepspeed.offload_optimizer it is false. Delete it, and set",
        ),
        (
            "{zero_optimization: {cpu_offload_param: true}}",
            "cpu_offload_param: is true, and by parallel.deepspeed.offload_parameters it is false.",
        ),
        ("{allgather_size: 100}", "allgather_size: is 100, and by parallel.bucket_mb it is 6553600."),
        ("{zero_optimization: false}", "zero_optimization.stage: is 0, and by parallel.deepspeed.stage it is 1."),
        ("{gradient_cliping: 0.3}", "is no key of DeepSpeed 0.19. Did you mean gradient_clipping?"),
    ],
)
def test_what_contradicts_the_recipe_is_refused(tmp_path: Path, added: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        plan_of(tmp_path, f"parallel.deepspeed.config={added}")
    assert said in str(caught.value)
    assert str(caught.value).startswith("parallel.deepspeed.config.")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("{stage: 0, offload_optimizer: true}", "ZeRO stage 0 shares out nothing, and offloads nothing"),
        ("{stage: 2, offload_parameters: true}", "ZeRO stage 2 keeps the parameters whole on every rank"),
    ],
)
def test_what_a_stage_lacks_is_refused(tmp_path: Path, settings: str, said: str) -> None:
    (sentence,) = refusal(tmp_path, RECIPE, "parallel.engine=deepspeed", f"parallel.deepspeed={settings}")
    assert said in sentence


def test_half_precision_at_stage_0_is_refused(tmp_path: Path) -> None:
    settings = ("parallel.engine=deepspeed", "parallel.deepspeed.stage=0", "train.precision=bf16")
    (sentence,) = refusal(tmp_path, RECIPE, *settings)
    assert "ZeRO stage 0 trains in fp32 only here, not in bf16. Set parallel.deepspeed.stage=1" in sentence


def test_fp16_on_a_cpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="DeepSpeed does not support fp16 on a CPU"):
        plan_of(tmp_path, "train.precision=fp16")
    assert plan_of(tmp_path, "train.precision=fp16", device="cuda").zero_traffic is None


def test_a_missing_package_is_told_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = plan_of(tmp_path).recipe
    refuse_missing_deepspeed(recipe)
    monkeypatch.setattr(launching, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"pip install 'launcher\[deepspeed\]'"):
        refuse_missing_deepspeed(recipe)
    refuse_missing_deepspeed(plan_of(tmp_path, "parallel.engine=ddp").recipe)


@pytest.mark.parametrize(
    ("stage", "reduced", "gathered"), [(0, 4000, 0), (1, 4000, 4000), (2, 8000, 4000), (3, 8000, 16000)]
)
def test_the_plan_says_what_crosses_the_network(tmp_path: Path, stage: int, reduced: int, gathered: int) -> None:
    plan = plan_of(tmp_path, f"parallel.deepspeed.stage={stage}", "model.parameters=1000")
    assert plan.reduction is not None and plan.zero_traffic is not None
    assert plan.reduction.bytes_per_update == reduced
    assert plan.zero_traffic.gathered_bytes == gathered
    lines = {label: (value, source) for label, value, source in gradient_lines(plan)}
    assert ("no_sync" in lines) == (stage >= 2)
    assert ("without no_sync" in lines) == (stage < 2)
    assert [boxes for _, _, boxes in window_lines(plan)] == (["■■"] * 2 if stage >= 2 else ["□■"] * 2)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_gradients_travel_as_the_users_keys_say(tmp_path: Path, stage: int) -> None:
    """As measured with two ranks: half the bytes are reduced, and the gathers stay."""
    settings = (f"parallel.deepspeed.stage={stage}", "model.parameters=1000")
    plain = plan_of(tmp_path, *settings).zero_traffic
    half = plan_of(tmp_path, *settings, "parallel.deepspeed.config={communication_data_type: fp16}").zero_traffic
    assert plain is not None and half is not None
    assert 2 * half.reduced_bytes == plain.reduced_bytes
    assert half.gathered_bytes == plain.gathered_bytes


def test_the_gathers_of_stage_3_are_the_most_that_there_are(tmp_path: Path) -> None:
    """How long DeepSpeed keeps what it gathered follows from sizes of layers, which no recipe knows."""
    for stage, said in (
        (2, "per update = the parameters once"),
        (3, "per update at most = the parameters 2 × 2 micro"),
    ):
        plan = plan_of(tmp_path, f"parallel.deepspeed.stage={stage}", "model.parameters=1000")
        assert any(source.startswith(said) for _, _, source in gradient_lines(plan))


def test_keys_that_change_the_bytes_are_named(tmp_path: Path) -> None:
    config = "parallel.deepspeed.config={zero_optimization: {zero_quantized_gradients: true}}"
    plan = plan_of(tmp_path, "parallel.deepspeed.stage=3", "model.parameters=1000", config)
    assert list(gradient_lines(plan))[-1] == (
        "not counted", "",
        "zero_optimization.zero_quantized_gradients of parallel.deepspeed.config, which may change the bytes",
    )  # fmt: skip


def test_half_precision_travels_as_it_is(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "train.precision=bf16", "model.parameters=1000")
    assert plan.reduction is not None and plan.reduction.bytes_per_update == 2000
