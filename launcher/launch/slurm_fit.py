"""What a recipe must be for Slurm to run it, beyond what it must be anyway; refused before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from launcher.errors import Mistake, RequestError
from launcher.plan.topology import Machine
from launcher.recipe.schema import Recipe
from launcher.recipe.slurm_rules import is_plain


def node_machine(recipe: Recipe) -> Machine:
    """The machine that a recipe gets from Slurm, which is not this one.

    Args:
        recipe: the recipe.

    Raises:
        RequestError: it cannot run there, with every reason.
    """
    mistakes = list(_hindrances(recipe))
    if mistakes:
        raise RequestError(mistakes)
    launch = recipe.launch
    ranks = 1 if launch.nproc_per_node == "auto" else launch.nproc_per_node
    gpus = launch.slurm.gpus_per_node
    if gpus is None:
        gpus = 0 if launch.device == "cpu" else ranks
    return Machine(cpus=launch.slurm.cpus_per_node or ranks * (1 + recipe.data.workers), gpus=gpus)


def refuse_folder(runs: Path) -> None:
    """Refuse a folder for runs whose name a batch script cannot hold.

    Args:
        runs: the folder, absolute.

    Raises:
        RequestError: it cannot.
    """
    if not is_plain(runs):
        raise RequestError(
            [Mistake("--runs", f"{runs} has quotes, backslashes or #, which sbatch reads in its own way",
                     "Choose another folder")]
        )  # fmt: skip


def _hindrances(recipe: Recipe) -> Iterator[Mistake]:
    launch, slurm = recipe.launch, recipe.launch.slurm
    on_gpus = launch.device != "cpu"
    if launch.elastic:
        yield Mistake(
            "launch.nodes",
            f"a job of Slurm has a fixed number of machines, not {launch.machines}",
            f"Set launch.nodes={launch.machines.most}",
        )
    if launch.method == "ray" and launch.machines.most > 1:
        yield Mistake(
            "launch.method",
            "ray places ranks on the machines of its own cluster, and a job of Slurm starts those of each machine",
            "Set launch.method=torchrun",
        )
    if on_gpus and launch.nproc_per_node == "auto" and slurm.gpus_per_node is None:
        yield Mistake(
            "launch.nproc_per_node",
            "auto is one rank for each GPU, and how many GPUs the machines have cannot be seen from here",
            "Set launch.slurm.gpus_per_node, or launch.device=cpu",
        )
    if not on_gpus and slurm.gpus_per_node:
        yield Mistake(
            "launch.slurm.gpus_per_node", "launch.device=cpu trains without GPUs", "Delete it, or set launch.device"
        )
    if launch.device == "cuda" and slurm.gpus_per_node == 0:
        yield Mistake("launch.slurm.gpus_per_node", "launch.device=cuda needs GPUs", "Say how many a machine has")
    if slurm.gpus_per_node and launch.nproc_per_node != "auto" and launch.nproc_per_node > slurm.gpus_per_node:
        yield Mistake(
            "launch.slurm.gpus_per_node",
            f"{launch.nproc_per_node} ranks (launch.nproc_per_node) need as many GPUs, not {slurm.gpus_per_node}",
            f"Set launch.slurm.gpus_per_node={launch.nproc_per_node}",
        )
