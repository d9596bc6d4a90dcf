"""What a dry run prints is what is executed, and it works when pasted."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from launcher.launch.build import build_launch, numbered
from launcher.launch.environ import container_environment
from launcher.launch.spec import LaunchSpec
from launcher.launch.torchrun import Meeting
from launcher.plan.planner import Plan, make_plan
from launcher.plan.topology import Machine, Topology
from launcher.recipe.load import load_recipe
from launcher.recipe.node_range import NodeRange
from launcher.rundir.generation import read_generation
from launcher.rundir.layout import RunDirectory
from tests.faults.table import Kind
from tests.processes import clean_environment, launcher

MACHINE = Machine(cpus=8, gpus=0)


def plan_of(folder: Path, world: int = 2, device: str = "cpu", **launch: str) -> Plan:
    (folder / "task.py").write_text("class Mine: ...\n")
    text = "task: {entry: task.py:Mine}\nbatch: {global: 64, micro: 8}\ntrain: {updates: 5}\n"
    (folder / "recipe.yaml").write_text(text)
    overrides = [f"launch.{key}={value}" for key, value in launch.items()]
    recipe = load_recipe(folder / "recipe.yaml", overrides).recipe
    topology = Topology.model_validate({"nodes": 1, "nproc_per_node": world, "device": device})
    return make_plan(recipe, topology)


def spec_of(folder: Path, world: int = 2, device: str = "cpu", **launch: str) -> LaunchSpec:
    return build_launch(plan_of(folder, world, device, **launch), RunDirectory(folder / "run"), MACHINE, {}, "python")


def test_torchrun_gets_its_numbers_from_the_plan(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    assert spec.argv == (
        "python", "-m", "launcher.worker.agent", "torchrun", "--standalone", "--nproc-per-node=2", "--max-restarts=0",
        f"--log-dir={tmp_path}/run/logs/agent", "-m", "launcher.worker.entry",
    )  # fmt: skip


def test_accelerate_always_gets_a_config_file(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, method="accelerate")
    config_file = tmp_path / "run" / "accelerate.yaml"
    assert spec.argv[3:] == (
        "accelerate", "launch", "--config_file", str(config_file),
        "--log_dir", str(tmp_path / "run" / "logs" / "agent"), "-m", "launcher.worker.entry",
    )  # fmt: skip
    config = yaml.safe_load(spec.files[config_file])
    assert config["num_processes"] == 2
    assert config["distributed_type"] == "MULTI_GPU"  # with use_cpu it would start one process
    assert config["use_cpu"] is False
    assert spec.env["ACCELERATE_USE_CPU"] == "true"


def test_accelerate_with_one_process_or_on_gpus(tmp_path: Path) -> None:
    config_file = tmp_path / "run" / "accelerate.yaml"
    alone = yaml.safe_load(spec_of(tmp_path, 1, method="accelerate").files[config_file])
    assert (alone["distributed_type"], alone["use_cpu"]) == ("NO", True)
    gpus = spec_of(tmp_path, 4, "cuda", method="accelerate")
    assert yaml.safe_load(gpus.files[config_file])["use_cpu"] is False
    assert "ACCELERATE_USE_CPU" not in gpus.env
    assert "CUDA_VISIBLE_DEVICES" not in gpus.env


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_plain_accelerator_in_a_script_computes_in_the_precision_of_the_recipe(
    tmp_path: Path, precision: str
) -> None:
    (tmp_path / "train.py").write_text("")
    (tmp_path / "recipe.yaml").write_text(
        f"script: {{path: train.py}}\nbatch: {{global: 64, micro: 8}}\ntrain: {{updates: 5, precision: {precision}}}\n"
    )
    recipe = load_recipe(tmp_path / "recipe.yaml", ["launch.method=accelerate"]).recipe
    plan = make_plan(recipe, Topology.model_validate({"nodes": 1, "nproc_per_node": 2, "device": "cpu"}))
    spec = build_launch(plan, RunDirectory(tmp_path / "run"), MACHINE, {}, "python")
    theirs = "no" if precision == "fp32" else precision
    assert spec.env["ACCELERATE_MIXED_PRECISION"] == theirs
    assert yaml.safe_load(spec.files[tmp_path / "run" / "accelerate.yaml"])["mixed_precision"] == theirs


def test_environment_carries_the_plan(tmp_path: Path) -> None:
    env = spec_of(tmp_path).env
    assert env["LAUNCHER_GLOBAL_BATCH"] == "64"
    assert env["LAUNCHER_MICRO_BATCH"] == "8"
    assert env["LAUNCHER_ACCUMULATION"] == env["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] == "4"
    assert env["LAUNCHER_UPDATES"] == "5"
    assert env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    assert env["OMP_NUM_THREADS"] == "4"  # 8 cores, 2 ranks


def test_gloo_is_told_the_interface_by_which_machines_reach_each_other(tmp_path: Path) -> None:
    plan, run = plan_of(tmp_path), RunDirectory(tmp_path / "run")
    meeting = Meeting("head:29400", "it", NodeRange(2, 2), place=1, interface="eth7")
    assert build_launch(plan, run, MACHINE, {}, meeting=meeting).env["GLOO_SOCKET_IFNAME"] == "eth7"
    chosen = {"GLOO_SOCKET_IFNAME": "ib0"}
    assert "GLOO_SOCKET_IFNAME" not in build_launch(plan, run, MACHINE, chosen, meeting=meeting).env
    assert "GLOO_SOCKET_IFNAME" not in build_launch(plan, run, MACHINE, {}).env


def test_workers_are_told_which_launch_they_belong_to(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    assert "LAUNCHER_GENERATION" not in spec.env  # a dry run takes no run over
    assert numbered(spec, 3).env == {**spec.env, "LAUNCHER_GENERATION": "3"}
    assert numbered(spec, 3, 0).env == {**spec.env, "LAUNCHER_GENERATION": "3", "LAUNCHER_AFTER": "0"}


def test_threads_are_the_same_for_one_rank_and_kept_where_the_user_set_them(tmp_path: Path) -> None:
    assert spec_of(tmp_path, 1).env["OMP_NUM_THREADS"] == "8"
    assert spec_of(tmp_path, 16).env["OMP_NUM_THREADS"] == "1"
    plan = plan_of(tmp_path)
    kept = build_launch(plan, RunDirectory(tmp_path / "run"), MACHINE, {"OMP_NUM_THREADS": "3"})
    assert "OMP_NUM_THREADS" not in kept.env


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="its C library is not glibc")
def test_ranks_on_cpus_keep_the_memory_that_a_micro_step_frees(tmp_path: Path) -> None:
    """Counted as pages that the kernel hands out while 16 pieces of 6 MiB come and go."""
    script = """
import ctypes, resource
c = ctypes.CDLL(None)
c.malloc.restype = ctypes.c_void_p
c.free.argtypes = [ctypes.c_void_p]
def take():
    pieces = [c.malloc(6 * 2**20) for _ in range(16)]
    for piece in pieces: ctypes.memset(piece, 1, 6 * 2**20)
    for piece in pieces: c.free(piece)
for _ in range(5): take()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): take()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    without = {name: value for name, value in clean_environment().items() if "MALLOC" not in name}
    ours = {name: value for name, value in spec_of(tmp_path).env.items() if "MALLOC" in name}
    command = [sys.executable, "-c", script]
    pages = [
        int(subprocess.run(command, env=env, capture_output=True, check=True).stdout)
        for env in (without, {**without, **ours})
    ]
    assert pages[0] > 10_000
    assert pages[1] < 1_000


@pytest.mark.parametrize(
    "chosen",
    [{"MALLOC_TRIM_THRESHOLD_": "0"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0"}],
    ids=lambda it: next(iter(it)),
)
def test_what_the_user_set_of_the_allocator_is_kept(tmp_path: Path, chosen: dict[str, str]) -> None:
    kept = build_launch(plan_of(tmp_path), RunDirectory(tmp_path / "run"), MACHINE, chosen)
    assert not [name for name in kept.env if "MALLOC" in name]
    assert not [name for name in spec_of(tmp_path, device="cuda").env if "MALLOC" in name]
    assert container_environment(chosen, (), "me")[1] == list(chosen)  # and a container is given it


@pytest.mark.parametrize("method", ["torchrun", "accelerate"])
def test_workers_are_told_what_else_to_do_last(tmp_path: Path, method: str) -> None:
    plan, run = plan_of(tmp_path, method=method), RunDirectory(tmp_path / "run")
    training, proving = (build_launch(plan, run, MACHINE, {}, worker_arguments=told) for told in ((), ("prove",)))
    assert proving.argv == (*training.argv, "prove")
    assert (proving.env, proving.files) == (training.env, training.files)


def test_files_hold_the_plan_and_a_recipe_that_loads_again(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    run = RunDirectory(tmp_path / "run")
    spec = build_launch(plan, run, MACHINE, {})
    assert Plan.model_validate_json(spec.files[run.plan]) == plan
    elsewhere = tmp_path / "elsewhere" / "resolved.yaml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(spec.files[run.recipe])
    assert load_recipe(elsewhere).recipe == plan.recipe


@pytest.mark.fault(
    Kind.SECRET,
    "secrets in the environment",
    by="a launch made of it",
    outcome="in no argument, variable or file of the launch",
)
def test_no_secret_reaches_the_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "canary-0123456789")
    spec = build_launch(plan_of(tmp_path), RunDirectory(tmp_path / "run"), MACHINE, dict(os.environ))
    assert "canary" not in spec.as_shell()


def test_shell_text_does_what_the_spec_says(tmp_path: Path) -> None:
    """Names and values that a shell could take apart arrive whole, and files byte for byte."""
    program = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['ODD']]))"
    folder = tmp_path / "a folder's"
    spec = LaunchSpec(
        argv=(sys.executable, "-c", program, "two words", "$(id)", "it's"),
        env={"ODD": 'a "b" $HOME `c`'},
        files={folder / "x.txt": "line $HOME\n'quoted'\n"},
    )
    done = subprocess.run(["bash", "-c", spec.as_shell()], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == [["two words", "$(id)", "it's"], 'a "b" $HOME `c`']
    assert not (folder / "x.txt").exists()  # that of a launch which holds the run stays as it is
    assert (folder / "x.txt.pasted").read_text() == "line $HOME\n'quoted'\n"


def test_a_dry_run_trains_when_pasted(tmp_path: Path) -> None:
    """The whole text of `--dry-run`, through a shell: the run ends with all its updates."""
    runs = ["--runs", str(tmp_path), "--run-id", "pasted"]
    overrides = ["launch.nproc_per_node=2", "train.epochs=null", "train.updates=3"]
    shown = launcher("run", "recipes/digits/recipe.yaml", *overrides, "--dry-run", *runs)
    assert shown.returncode == 0, shown.stderr
    assert not (tmp_path / "pasted").exists()
    done = subprocess.run(
        ["bash", "-c", shown.stdout], env=clean_environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "pasted" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["train/global_step"] for row in rows] == [1, 2, 3]
    assert (tmp_path / "pasted" / "plan.json").exists()
    assert list((tmp_path / "pasted").glob("*.pasted")) == []
    assert read_generation(RunDirectory(tmp_path / "pasted")) == 1
