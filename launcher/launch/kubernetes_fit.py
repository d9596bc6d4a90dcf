"""What a recipe must be for Kubernetes to run it, beyond what it must be anyway; refused before anything is sent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from launcher.errors import Mistake, RequestError
from launcher.plan.topology import Machine
from launcher.recipe.schema import Recipe


def cluster_machine(recipe: Recipe) -> Machine:
    """The machine that a recipe gets from Kubernetes, which is not this one.

    Args:
        recipe: the recipe.

    Raises:
        RequestError: it cannot run there, with every reason.
    """
    mistakes = [*_hindrances(recipe), *_places(recipe), *_gpus(recipe)]
    if mistakes:
        raise RequestError(mistakes)
    launch = recipe.launch
    ranks = 1 if launch.nproc_per_node == "auto" else launch.nproc_per_node
    gpus = launch.kubernetes.gpus_per_node
    if gpus is None:
        gpus = 0 if launch.device == "cpu" else ranks
    return Machine(cpus=launch.kubernetes.cpus_per_node or ranks * (1 + recipe.data.workers), gpus=gpus)


def refuse_code(recipe: Recipe, recipe_folder: Path) -> None:
    """Refuse code that the pods would not find.

    Args:
        recipe: the recipe.
        recipe_folder: where it lies here, absolute.

    Raises:
        RequestError: they would not.
    """
    files = []
    if recipe.task and recipe.task.entry.rpartition(":")[0].endswith(".py"):
        files.append(("task.entry", recipe.task.entry.rpartition(":")[0]))
    if recipe.script:
        files.append(("script.path", recipe.script.path))
    mistakes = []
    for key, file in files:
        if recipe.launch.kubernetes.code is None:
            mistakes.append(
                Mistake(
                    key,
                    f"{file} lies on this machine",
                    "Put its folder into the image or on a volume, and say where by launch.kubernetes.code",
                )
            )
        elif not Path(os.path.normpath(file)).is_relative_to(recipe_folder):
            mistakes.append(
                Mistake(
                    key, f"{file} is not below {recipe_folder}", "launch.kubernetes.code is the recipe's folder there"
                )
            )
    if mistakes:
        raise RequestError(mistakes)


def _hindrances(recipe: Recipe) -> Iterator[Mistake]:
    launch, asked = recipe.launch, recipe.launch.kubernetes
    if asked.image is None:
        yield Mistake("launch.kubernetes.image", "is missing", "Name an image that has the launcher")
    if asked.runs_claim is None:
        yield Mistake(
            "launch.kubernetes.runs_claim",
            "is missing: without a volume the run and its checkpoints would be lost with its pods",
            "Name a PersistentVolumeClaim, which several machines must be able to write (ReadWriteMany)",
        )
    if launch.method == "ray":
        yield Mistake(
            "launch.method",
            "ray would look for a Ray cluster in each pod, and Kubernetes places the ranks here",
            "Set launch.method=torchrun, or hand it to a Ray cluster by --to ray",
        )
    if launch.elastic:
        yield Mistake(
            "launch.nodes",
            f"a job of Kubernetes has a fixed number of machines, not {launch.machines}",
            f"Set launch.nodes={launch.machines.most}",
        )


def _places(recipe: Recipe) -> Iterator[Mistake]:
    config = recipe.launch.accelerate.config_file
    if config is not None:
        yield Mistake(
            "launch.accelerate.config_file", f"{config} lies on this machine", "Delete it: one is written from the plan"
        )


def _gpus(recipe: Recipe) -> Iterator[Mistake]:
    launch, gpus = recipe.launch, recipe.launch.kubernetes.gpus_per_node
    if launch.device != "cpu" and launch.nproc_per_node == "auto" and gpus is None:
        yield Mistake(
            "launch.nproc_per_node",
            "auto is one rank for each GPU, and how many GPUs the machines have cannot be seen from here",
            "Set launch.kubernetes.gpus_per_node, or launch.device=cpu",
        )
    if launch.device == "cpu" and gpus:
        yield Mistake(
            "launch.kubernetes.gpus_per_node",
            "launch.device=cpu trains without GPUs",
            "Delete it, or set launch.device",
        )
    if launch.device == "cuda" and gpus == 0:
        yield Mistake("launch.kubernetes.gpus_per_node", "launch.device=cuda needs GPUs", "Say how many a machine has")
    if gpus and launch.nproc_per_node != "auto" and launch.nproc_per_node > gpus:
        yield Mistake(
            "launch.kubernetes.gpus_per_node",
            f"{launch.nproc_per_node} ranks (launch.nproc_per_node) need as many GPUs, not {gpus}",
            f"Set launch.kubernetes.gpus_per_node={launch.nproc_per_node}",
        )
