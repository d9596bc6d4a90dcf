"""The launches of the shipped recipes, of an elastic one and of one with its own accelerate config, to be compared.

And some of them as jobs of Slurm and of SkyPilot, on machines that are started by hand, and as a sweep.

`python -m tests.recipes.golden` writes them anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from launcher.cli.preview import meeting_by_hand
from launcher.cli.sweep_here import commands
from launcher.cli.sweep_request import read_sweep
from launcher.launch.build import build_launch
from launcher.launch.skypilot import sky_job, sky_machine
from launcher.launch.slurm import slurm_job
from launcher.launch.slurm_array import slurm_array
from launcher.launch.slurm_fit import node_machine
from launcher.launch.submission import Submission
from launcher.launch.torchrun import Meeting
from launcher.plan.planner import make_plan
from launcher.plan.sweep import grid
from launcher.plan.topology import Machine, Topology, choose_topology
from launcher.recipe.load import load_recipe
from launcher.recipe.task_code import batchnorm_uses
from launcher.rundir.layout import RunDirectory
from launcher.runners.place import Place
from tests.processes import ROOT

GOLDEN = Path(__file__).parent / "golden"
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if path.name != "sweep.yaml")  # which is W&B's
OTHERS = [ROOT / "tests" / "tasks" / "elastic.yaml", ROOT / "tests" / "tasks" / "own_config.yaml"]
ALL = [*RECIPES, *OTHERS]
# Jobs, by the names of their files: the recipe, and what it is told for the cluster.
JOBS: dict[str, tuple[str, tuple[str, ...]]] = {
    "slurm-digits.sh": (
        "digits/recipe.yaml",
        ("launch.nodes=2", "launch.nproc_per_node=2", "launch.device=cpu", "data.workers=1"),
    ),
    "slurm-gpt2.sh": (
        "gpt2/recipe.yaml",
        (
            "launch.nodes=4",
            "launch.slurm.gpus_per_node=8",
            "launch.slurm.cpus_per_node=96",
            "launch.slurm.time=1-00:00:00",
            "launch.slurm.partition=gpu",
            "launch.slurm.account=lab",
            "launch.slurm.memory=512G",
            "launch.slurm.signal_before=600",
            "launch.slurm.options={qos: high, exclusive: true, constraint: a100 | h100, nice: 10, overcommit: false}",
        ),
    ),
    "slurm-container.sh": (
        "sft/lora.yaml",
        (
            "launch.nproc_per_node=4",
            "launch.slurm.container=registry.example/team/launcher:1",
            "launch.slurm.mounts=[/data, /scratch/models:/models]",
        ),
    ),
    "slurm-plain_loop.sh": ("plain_loop/recipe.yaml", ("launch.device=cpu",)),
}
# The same for SkyPilot.
SKY_JOBS: dict[str, tuple[str, tuple[str, ...]]] = {
    "skypilot-digits.yaml": ("digits/recipe.yaml", ("launch.device=cpu", "launch.skypilot.setup=pip install launcher")),
    "skypilot-gpt2.yaml": (
        "gpt2/recipe.yaml",
        (
            "launch.nodes=4",
            "launch.nproc_per_node=8",
            "launch.skypilot.accelerator=H100",
            "launch.skypilot.infra=k8s",
            "launch.skypilot.image=docker:registry.example/team/launcher:1",
            "launch.skypilot.runs=shared",
            "launch.skypilot.secrets=[WANDB_API_KEY, HF_TOKEN]",
        ),
    ),
    "skypilot-spot.yaml": (
        "sft/lora.yaml",
        (
            "launch.nproc_per_node=1",
            "launch.skypilot.accelerator=A100",
            "launch.skypilot.infra=aws/us-east-1",
            "launch.skypilot.setup=pip install uv\nuv pip install launcher",
            "launch.skypilot.use_spot=true",
            "launch.skypilot.runs=s3://runs",
            "launch.skypilot.memory=64",
            "launch.skypilot.disk=512",
        ),
    ),
}
# The second of two machines that are started by hand, by each launch method.
BY_HAND = {"by_hand-torchrun.sh": "torchrun", "by_hand-accelerate.sh": "accelerate"}
SWEEP = "sweep.sh"
ARRAY = "slurm-sweep.sh"
SWEPT = (
    "optimizer.lr=0.01,0.003",
    "batch.global=128,256",
    "launch.nodes=2",
    "launch.nproc_per_node=1",
    "launch.device=cpu",
)


def golden_file(recipe: Path) -> Path:
    if recipe in OTHERS:
        return GOLDEN / f"{recipe.stem}.sh"
    return GOLDEN / ("-".join(recipe.relative_to(ROOT / "recipes").with_suffix("").parts) + ".sh")


def launch_text(path: Path) -> str:
    """The launch of a recipe on two ranks of a machine with eight cores, the project's folder written as PROJECT."""
    recipe = load_recipe(path).recipe
    plan = make_plan(recipe, Topology(nodes=1, nproc_per_node=2, device="cpu"), batchnorm_uses(recipe))
    launch, run, machine = recipe.launch, RunDirectory(Path("/runs/id")), Machine(cpus=8, gpus=0)
    meeting = Meeting("head:29400", "id", launch.machines) if launch.elastic else None
    spec = build_launch(plan, run, machine, {}, python="python", meeting=meeting)
    return spec.as_shell().replace(str(ROOT), "PROJECT") + "\n"


def job_of(path: Path, overrides: Sequence[str], run: Path = Path("/runs/id")) -> Submission:
    """The job of a recipe, planned for what the cluster is asked for."""
    recipe = load_recipe(path, overrides).recipe
    plan = make_plan(recipe, choose_topology(recipe.launch, node_machine(recipe)), batchnorm_uses(recipe))
    return slurm_job(plan, RunDirectory(run), python="python")


def script_of(job: Submission) -> str:
    """The script or task file that an engine is given: the last word of the command names it."""
    return job.files[Path(job.argv[-1])]


def job_text(name: str) -> str:
    """The script of a job and the command that submits it, the project's folder written as PROJECT."""
    recipe, overrides = JOBS[name]
    job = job_of(ROOT / "recipes" / recipe, overrides)
    return f"{script_of(job)}\n$ {' '.join(job.argv)}\n".replace(str(ROOT), "PROJECT")


def sky_text(name: str) -> str:
    """The task file of a job of SkyPilot and the command that submits it, the project's folder written as PROJECT."""
    recipe_file, overrides = SKY_JOBS[name]
    recipe = load_recipe(ROOT / "recipes" / recipe_file, overrides).recipe
    plan = make_plan(recipe, choose_topology(recipe.launch, sky_machine(recipe)), batchnorm_uses(recipe))
    job = sky_job(plan, RunDirectory(Path("/runs/id")))
    return f"{script_of(job)}\n$ {' '.join(job.argv)}\n".replace(str(ROOT), "PROJECT")


def by_hand_text(name: str) -> str:
    """What `launcher run --nodes 2 --node-rank 1` would execute, without what depends on the machine that prints it."""
    recipe = load_recipe(ROOT / "recipes" / "digits" / "recipe.yaml", [f"launch.method={BY_HAND[name]}"]).recipe
    plan = make_plan(recipe, Topology(nodes=2, nproc_per_node=2, device="cpu"), batchnorm_uses(recipe))
    place = Place(1, 2, "127.0.0.1:29400", "127.0.0.1:29400")
    meeting = replace(meeting_by_hand(place, RunDirectory(Path("/runs/id"))), interface="eth0")
    spec = build_launch(plan, RunDirectory(Path("/runs/id")), Machine(8, 0), {}, python="python", meeting=meeting)
    return spec.as_shell().replace(str(ROOT), "PROJECT") + "\n"


def sweep_text() -> str:
    """The commands of a sweep on this machine."""
    recipe = ROOT / "recipes" / "digits" / "recipe.yaml"
    sweep = read_sweep(recipe, (*SWEPT[:2], "launch.nproc_per_node=1", "launch.device=cpu"), Path("/runs"), None)
    return "\n".join(commands(sweep)).replace(str(ROOT), "PROJECT") + "\n"


def array_text() -> str:
    """The script of an array and the command that submits it, two runs at a time."""
    planned = []
    for run in grid(SWEPT):
        recipe = load_recipe(ROOT / "recipes" / "digits" / "recipe.yaml", run.overrides).recipe
        plan = make_plan(recipe, choose_topology(recipe.launch, node_machine(recipe)), batchnorm_uses(recipe))
        planned.append((plan, RunDirectory(Path("/runs/digits-sweep") / run.run_id)))
    array = slurm_array(planned, at_once=2, python="python")
    return f"{script_of(array)}\n$ {' '.join(array.argv)}\n"


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for recipe_file in ALL:
        golden_file(recipe_file).write_text(launch_text(recipe_file))
    for job_file in JOBS:
        (GOLDEN / job_file).write_text(job_text(job_file))
    for sky_file in SKY_JOBS:
        (GOLDEN / sky_file).write_text(sky_text(sky_file))
    for by_hand_file in BY_HAND:
        (GOLDEN / by_hand_file).write_text(by_hand_text(by_hand_file))
    (GOLDEN / SWEEP).write_text(sweep_text())
    (GOLDEN / ARRAY).write_text(array_text())
