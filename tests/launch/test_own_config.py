"""The user's own accelerate config file: used where it goes with the recipe, refused with both values where not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from launcher.errors import RequestError
from launcher.launch.accelerate import accelerate_config
from launcher.launch.own_config import own_config
from launcher.plan.planner import Plan, make_plan
from launcher.plan.topology import Topology
from launcher.recipe.load import load_recipe
from tests.faults.table import Kind

RECIPE = "task: {entry: task.py:Mine}\nbatch: {global: 64, micro: 8}\ntrain: {updates: 5, max_grad_norm: 1.0}\n"
GOES_WITH = "distributed_type: MULTI_GPU\nnum_processes: 2\n"


def plan_of(folder: Path, config: str, *overrides: str, world: int = 2, device: str = "cuda") -> Plan:
    """The plan of a recipe with its own config file beside it, as seen from elsewhere."""
    (folder / "task.py").write_text("class Mine: ...\n")
    (folder / "train.py").write_text("")
    (folder / "cluster.yaml").write_text(config)
    script = any(override.startswith("script") for override in overrides)
    text = "batch: {global: 64, micro: 8}\ntrain: {updates: 5}\n" if script else RECIPE
    (folder / "recipe.yaml").write_text(
        text + "launch: {method: accelerate, accelerate: {config_file: cluster.yaml}}\n"
    )
    recipe = load_recipe(folder / "recipe.yaml", overrides).recipe
    return make_plan(recipe, Topology.model_validate({"nodes": 1, "nproc_per_node": world, "device": device}))


def refusal(folder: Path, config: str, *overrides: str, world: int = 2, device: str = "cuda") -> str:
    with pytest.raises(RequestError) as caught:
        own_config(plan_of(folder, config, *overrides, world=world, device=device))
    return str(caught.value).replace(f"{folder}/", "")


def test_it_is_used_and_filled_up(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, GOES_WITH + "main_process_port: 29777\nmixed_precision: no\n")
    written = yaml.safe_load(accelerate_config(plan))
    assert written == {
        "compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_GPU", "mixed_precision": "no",
        "num_machines": 1, "num_processes": 2, "machine_rank": 0, "use_cpu": False, "main_process_port": 29777,
    }  # fmt: skip


def test_what_it_leaves_open_is_filled_up(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "debug: true\n", "train.precision=bf16")
    written = yaml.safe_load(accelerate_config(plan))
    assert (written["num_processes"], written["mixed_precision"], written["debug"]) == (2, "bf16", True)
    assert written["main_process_port"] == 0


def test_json_is_read_too(tmp_path: Path) -> None:
    assert own_config(plan_of(tmp_path, '{"distributed_type": "MULTI_GPU", "num_processes": 2}')) is not None


@pytest.mark.fault(
    Kind.REQUEST,
    "an accelerate config of the user's own that says something else than the recipe",
    by="another number of processes, precision, device, engine, accumulation",
    outcome="refused with both values, the file, the line, the key and the cure",
)
@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            "num_processes: 4",
            "num_processes: is 4, and the plan has 2: launch.nodes × launch.nproc_per_node = 1 × 2. "
            "Write 2 (it counts the processes of all machines), or set launch.nproc_per_node=4.",
        ),
        (
            "num_machines: 3",
            "num_machines: is 3, and the recipe has launch.nodes=1. Write 1, or set launch.nodes=3.",
        ),
        ("machine_rank: 1", "machine_rank: is 1, and there is one machine, which is 0. Write 0."),
        (
            "mixed_precision: bf16",
            "mixed_precision: is bf16, and the recipe has train.precision=fp32. "
            "Write 'no', or set train.precision=bf16.",
        ),
        (
            "mixed_precision: fp8",
            "mixed_precision: is fp8, and the recipe has train.precision=fp32. Write 'no'.",
        ),
        ("use_cpu: true", "use_cpu: is true, and the run is on cuda. Write false, or set launch.device=cpu."),
        ("gpu_ids: '3'", "gpu_ids: names 1, and launch.nproc_per_node is 2. Write all, or set "),
        (
            "distributed_type: NO",
            "distributed_type: is NO, with which accelerate starts one process, and the plan has 2. Write MULTI_GPU",
        ),
        (
            "distributed_type: FSDP",
            "distributed_type: is FSDP, and the recipe has parallel.engine=ddp. "
            "Write MULTI_GPU, or set parallel.engine=fsdp.",
        ),
        (
            "distributed_type: DEEPSPEED",
            "distributed_type: is DEEPSPEED, and the recipe has parallel.engine=ddp. "
            "Write MULTI_GPU, or set parallel.engine=deepspeed.",
        ),
        (
            "distributed_type: MEGATRON_LM",
            "distributed_type: is MEGATRON_LM, and the recipe has parallel.engine=ddp. Write MULTI_GPU.",
        ),
        (
            "deepspeed_config: {gradient_accumulation_steps: 8}",
            "deepspeed_config.gradient_accumulation_steps: is 8, and the plan takes 4 micro-steps",
        ),
        ("fsdp_config: {fsdp_version: 2}", "fsdp_config: is given, and the recipe has parallel.engine=ddp. Delete it"),
        ("fp8_config: {backend: TE}", "fp8_config: is given, and the recipe has parallel.engine=ddp. Delete it."),
        (
            "fp16: true",
            "fp16: is true, and the recipe has train.precision=fp32. Delete it, or set train.precision=fp16.",
        ),
        (
            "parallelism_config: {tp_size: 2}",
            "parallelism_config: is given, and the plan's ranks are all data-parallel",
        ),
        ("mpirun_config: {mpirun_ccl: 1}", "mpirun_config: starts processes by mpirun"),
        ("compute_environment: AMAZON_SAGEMAKER", "compute_environment: is AMAZON_SAGEMAKER, and the recipe runs on"),
        (
            "dynamo_config: {dynamo_backend: INDUCTOR}",
            "dynamo_config.dynamo_backend: is INDUCTOR, and the recipe has train.compile=false. "
            "Delete it, or set train.compile=true.",
        ),
        (
            "num_processes: '2'",
            "num_processes: is the text '2', and accelerate counts with it. Write 2, without quotes.",
        ),
        ("num_machines: 1.0", "num_machines: is 1.0, and accelerate counts with it. Write a whole number, or delete"),
        ("num_processes: true", "num_processes: is true, and accelerate counts with it"),
        (
            "deepspeed_config: [1]",
            "deepspeed_config: is a list, where accelerate has a section of keys. "
            "Write deepspeed_config: {zero_stage: 2}, or delete it.",
        ),
        ("fsdp_config: yes", "fsdp_config: is yes, where accelerate has a section of keys"),
        ("dynamo_config: inductor", "dynamo_config: is inductor, where accelerate has a section of keys"),
        ("num_proceses: 2", "num_proceses: is no key of an accelerate config file. Did you mean num_processes?"),
        ("gradient_accumulation_steps: 4", "gradient_accumulation_steps: is no key of an accelerate config file"),
        ("tpu_name: hf_abcdefghijklmnopqrstuvwxyz0123456789", "tpu_name: looks like a Hugging Face token"),
    ],
    ids=lambda text: text[:30],
)
def test_contradictions_are_refused_with_both_values(tmp_path: Path, config: str, sentence: str) -> None:
    said = refusal(tmp_path, f"# mine\n{config}\n")
    assert said.startswith(f"cluster.yaml:2: {sentence}"), said


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    assert len(refusal(tmp_path, "num_processes: 4\nuse_cpu: true\ndistributed_type: FSDP\n").splitlines()) == 3


def test_use_cpu_would_start_one_process(tmp_path: Path) -> None:
    said = refusal(tmp_path, "use_cpu: true\n", device="cpu")
    assert said.startswith("cluster.yaml:1: use_cpu: is true, with which accelerate starts one process, and the plan")


def test_values_that_agree_are_left_alone(tmp_path: Path) -> None:
    config = "deepspeed_config: {gradient_accumulation_steps: '4', zero_stage: 1, gradient_clipping: 1.0}\n"
    plan = plan_of(tmp_path, f"distributed_type: DEEPSPEED\n{config}", "parallel.engine=deepspeed")
    assert own_config(plan) is not None
    plan = plan_of(tmp_path, "dynamo_config: {dynamo_backend: inductor}\n", "train.compile=true")
    assert own_config(plan) is not None


@pytest.mark.parametrize(
    ("config", "engine", "sentence"),
    [
        ("deepspeed_config: {zero_stage: 3}", "deepspeed", "deepspeed_config.zero_stage: is 3, and by parallel.deep"),
        (
            "deepspeed_config: {gradient_clipping: 0.5}",
            "deepspeed",
            "deepspeed_config.gradient_clipping: is 0.5, and by train.max_grad_norm it is 1.0",
        ),
        (
            "deepspeed_config: {deepspeed_config_file: ds.json}",
            "deepspeed",
            "deepspeed_config.deepspeed_config_file: names a file of DeepSpeed's",
        ),
        ("fsdp_config: {fsdp_version: 1}", "fsdp", "fsdp_config.fsdp_version: is 1, and parallel.engine=fsdp is FSDP2"),
        (
            "fsdp_config: {fsdp_transformer_layer_cls_to_wrap: Block}",
            "fsdp",
            "fsdp_config.fsdp_transformer_layer_cls_to_wrap: is Block, and by parallel.fsdp.wrap it is",
        ),
        (
            "fsdp_config: {fsdp_sharding_strategy: NO_SHARD}",
            "fsdp",
            "fsdp_config.fsdp_sharding_strategy: is NO_SHARD, and by parallel.fsdp it is FULL_SHARD.",
        ),
        (
            "fsdp_config: {sharding_strategy: 2}",
            "fsdp",
            "fsdp_config.sharding_strategy: is 2, and by parallel.fsdp it is FULL_SHARD.",
        ),
        (
            "fsdp_config: {fsdp_auto_wrap_policy: SIZE_BASED_WRAP}",
            "fsdp",
            "fsdp_config.fsdp_auto_wrap_policy: is SIZE_BASED_WRAP, and by parallel.fsdp.wrap it is NO_WRAP.",
        ),
    ],
    ids=lambda text: text[:30],
)
def test_the_section_of_an_engine_is_held_against_the_recipe(
    tmp_path: Path, config: str, engine: str, sentence: str
) -> None:
    assert refusal(tmp_path, config, f"parallel.engine={engine}").startswith(f"cluster.yaml:1: {sentence}")


def test_what_fsdp_calls_otherwise_is_the_same(tmp_path: Path) -> None:
    wrap = "parallel.fsdp.wrap=[Block, Net]"
    for section in (
        "fsdp_transformer_layer_cls_to_wrap: 'Net, Block', fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP",
        "fsdp_transformer_layer_cls_to_wrap: [Net, Block], fsdp_sharding_strategy: 1",
        "reshard_after_forward: true, sharding_strategy: full_shard",
    ):
        config = f"distributed_type: FSDP\nfsdp_config: {{{section}}}\n"
        assert own_config(plan_of(tmp_path, config, "parallel.engine=fsdp", wrap)) is not None


@pytest.mark.parametrize("config", ["- num_processes: 2\n", "", "2\n"])
def test_a_file_that_is_no_mapping_is_told_what_it_should_be(tmp_path: Path, config: str) -> None:
    assert refusal(tmp_path, config) == (
        "cluster.yaml:1: an accelerate config file is a mapping of keys to values. "
        "Begin with a line such as num_processes: 2."
    )


DEEPSPEED = "distributed_type: DEEPSPEED\ndeepspeed_config: {{deepspeed_config_file: {}}}\n"


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (
            '{"gradient_accumulation_steps": 8}',
            "where gradient_accumulation_steps is 8, and the plan takes 4 micro-steps. Change the file, or the recipe.",
        ),
        ("{}", "where gradient_accumulation_steps is not there, which is 1, and the plan takes 4 micro-steps"),
        ('{"train_batch_size": 32}', "where train_batch_size is 32, and the recipe has batch.global=64"),
        ('{"train_micro_batch_size_per_gpu": 4}', "where train_micro_batch_size_per_gpu is 4, and the plan has "),
        ('{"bf16": {"enabled": true}}', "where bf16.enabled is true, and the recipe has train.precision=fp32"),
        ("[1]", "which is no JSON object"),
        ("{", "which is not JSON. Correct the file."),
    ],
)
def test_the_file_of_deepspeed_that_a_script_gets_is_held_against_the_plan(
    tmp_path: Path, file: str, sentence: str
) -> None:
    (tmp_path / "ds.json").write_text(file)
    said = refusal(tmp_path, DEEPSPEED.format(tmp_path / "ds.json"), "script.path=train.py")
    assert "cluster.yaml:2: deepspeed_config.deepspeed_config_file: names ds.json, " in said
    assert sentence in said


def test_a_file_of_deepspeed_that_agrees_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(
        '{"gradient_accumulation_steps": "auto", "train_batch_size": 64, "train_micro_batch_size_per_gpu": 8, '
        '"bf16": {"enabled": "auto"}, "fp16": {"enabled": false}, "zero_optimization": {"stage": 2}}'
    )
    config = DEEPSPEED.format(tmp_path / "ds.json")
    assert own_config(plan_of(tmp_path, config, "script.path=train.py")) is not None


def test_a_file_of_deepspeed_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, DEEPSPEED.format("none.json"), "script.path=train.py") == (
        "cluster.yaml:2: deepspeed_config.deepspeed_config_file: names none.json, which cannot be read: No such file "
        "or directory. Give its whole path: accelerate looks for it from where the run is started."
    )


def test_a_script_has_the_engine_that_the_file_prepares(tmp_path: Path) -> None:
    script = ("script.path=train.py", "train.precision=bf16")
    config = "distributed_type: FSDP\nmixed_precision: bf16\nfsdp_config: {fsdp_version: 2}\n"
    assert own_config(plan_of(tmp_path, config, *script)) is not None
    assert "and the plan has 2" in refusal(tmp_path, config + "num_processes: 8\n", *script)


def test_a_script_must_have_every_rank_for_data(tmp_path: Path) -> None:
    said = refusal(tmp_path, "parallelism_config: {tp_size: 2}\n", "script.path=train.py")
    assert said.startswith("cluster.yaml:1: parallelism_config: is given, and the plan's ranks are all data-parallel.")


def test_keys_that_accelerate_reads_past_get_a_sentence(tmp_path: Path) -> None:
    config = "rdzv_backend: c10d\nenable_cpu_affinity: true\ndowncast_bf16: 'yes'\nsame_network: true\n"
    own = own_config(plan_of(tmp_path, config))
    assert own is not None
    assert own.ignored == (
        "accelerate takes no rdzv_backend from a config file: rdzv_backend=c10d does nothing.",
        "accelerate takes no enable_cpu_affinity from a config file: enable_cpu_affinity=true does nothing.",
        "accelerate takes no downcast_bf16 from a config file: downcast_bf16=yes does nothing.",
    )


def test_a_file_that_is_not_there_is_refused_where_the_recipe_names_it(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        plan_of(tmp_path, "", "launch.accelerate.config_file=clutser.yaml")
    assert str(caught.value).replace(f"{tmp_path}/", "") == (
        "command line: launch.accelerate.config_file: there is no file clutser.yaml. Did you mean cluster.yaml?"
    )


def test_torchrun_reads_none(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"launch.method=torchrun reads no accelerate config"):
        plan_of(tmp_path, "", "launch.method=torchrun")
