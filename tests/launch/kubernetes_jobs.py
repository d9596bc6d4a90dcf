"""Jobs for Kubernetes to be compared with golden files. `python -m tests.launch.kubernetes_jobs` writes them anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launcher.launch.kubernetes import KubernetesJob, kubernetes_job
from launcher.launch.kubernetes_fit import cluster_machine, refuse_code
from launcher.plan.planner import make_plan
from launcher.plan.topology import choose_topology
from launcher.recipe.load import load_recipe
from launcher.recipe.task_code import batchnorm_uses
from launcher.rundir.layout import RunDirectory
from tests.processes import ROOT
from tests.recipes.golden import GOLDEN

DIGITS = ROOT / "recipes" / "digits" / "recipe.yaml"
NEEDED = (
    "launch.kubernetes.image=registry.example/launcher:1",
    "launch.kubernetes.runs_claim=runs",
    "launch.kubernetes.code=/code",
)
ON_CPU = (*NEEDED, "launch.nodes=2", "launch.nproc_per_node=2", "launch.device=cpu")
ON_GPUS = (
    *NEEDED,
    "launch.nodes=4",
    "launch.kubernetes.gpus_per_node=8",
    "launch.kubernetes.cpus_per_node=96",
    "launch.kubernetes.memory=512Gi",
    "launch.kubernetes.shared_memory=64Gi",
    "launch.kubernetes.resources={rdma/hca: 1}",
    "launch.kubernetes.namespace=lab",
    "launch.kubernetes.node_selector={gpu: h100}",
    "launch.kubernetes.tolerations=[{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]",
    "launch.kubernetes.volumes=[{claim: data, path: /data, read_only: true}]",
    "launch.kubernetes.env={NCCL_DEBUG: INFO}",
    "launch.kubernetes.secrets={WANDB_API_KEY: {name: wandb, key: api-key}}",
    "launch.kubernetes.service_account=trainer",
    "launch.kubernetes.pull_secrets=[registry]",
    "launch.kubernetes.labels={kueue.x-k8s.io/queue-name: lab}",
    "launch.kubernetes.grace_period=600",
)
JOBS: dict[str, tuple[str, ...]] = {
    "kubernetes-one.yaml": (*NEEDED, "launch.device=cpu"),
    "kubernetes-job.yaml": ON_CPU,
    "kubernetes-gpus.yaml": ON_GPUS,
    "kubernetes-jobset.yaml": (*ON_GPUS, "launch.kubernetes.kind=jobset"),
    "kubernetes-trainjob.yaml": (*ON_GPUS, "launch.kubernetes.kind=trainjob"),
}


def job_of(overrides: Sequence[str], run: Path = Path("/runs/it"), number: int = 1) -> KubernetesJob:
    """The job of the digits, planned for what the cluster is asked for."""
    recipe = load_recipe(DIGITS, overrides).recipe
    plan = make_plan(recipe, choose_topology(recipe.launch, cluster_machine(recipe)), batchnorm_uses(recipe))
    refuse_code(recipe, DIGITS.parent)
    return kubernetes_job(plan, RunDirectory(run), DIGITS.parent, number)


def job_text(name: str) -> str:
    """The manifest of a job, and what it is checked and applied by."""
    job = job_of(JOBS[name])
    (manifest,) = job.files.values()
    return f"# $ {' '.join(job.check)}\n# $ {' '.join(job.argv)}\n{manifest}"


if __name__ == "__main__":
    for file in JOBS:
        (GOLDEN / file).write_text(job_text(file))
