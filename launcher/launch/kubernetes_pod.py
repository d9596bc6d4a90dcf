"""What runs on each machine of a Kubernetes job: its pod. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from launcher.launch.torchrun import RENDEZVOUS_PORT
from launcher.plan.planner import Plan

JOB_LABEL = "launcher.run/name"
_LONGEST = 45  # characters of a job's name: its pods have names of 63 that begin with it
_RANK = "NODE_RANK"
_JOB = "JOB_UID"  # the same for a pod and the one that takes its place
_OF_JOB = "metadata.labels['batch.kubernetes.io/controller-uid']"
_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
_RECIPE = "/recipe"  # where the recipe is mounted
_NODE = "node"  # what Kubeflow's runtimes call the job and the container that train


@dataclass(frozen=True)
class KubernetesNames:
    """What things of a job are called.

    Attributes:
        job: the job, and all that belongs to it.
        run_id: the run.
        run: what tells the run from others of the same name, such as those in other folders.
        resume: whether it may go on with a run that another job has begun.
        replicated: the job in a JobSet.
    """

    job: str
    run_id: str
    run: str
    resume: bool = False
    replicated: str = _NODE

    @staticmethod
    def of(run: Path, number: int, *, resume: bool = False) -> KubernetesNames:
        """Those of a run. What had to be changed for Kubernetes could be the name of another run as well.

        Args:
            run: its directory, absolute.
            number: how often it has been submitted, this time included.
            resume: whether the job may go on with a run that another one has begun.
        """
        mark = f"r{sha256(str(run).encode()).hexdigest()[:8]}"
        again = f"-{number}" if number > 1 else ""
        plain = re.sub(r"[^a-z0-9-]+", "-", run.name.lower()).strip("-")
        plain = plain if plain[:1].isalpha() else f"run-{plain}"
        if plain != run.name or len(plain) > _LONGEST - len(again):
            again = f"-{mark}{again}"
        return KubernetesNames(plain[: _LONGEST - len(again)].rstrip("-") + again, run.name, mark, resume)

    def first_host(self, kind: str) -> str:
        """What the pod of the first machine is called by the others."""
        return f"{self.job}-0.{self.job}" if kind == "job" else f"{self.job}-{self.replicated}-0-0.{self.job}"


def pod_spec(plan: Plan, names: KubernetesNames) -> dict[str, Any]:
    """The pod of a Job or a JobSet.

    Args:
        plan: the plan.
        names: what things are called.
    """
    asked, nodes = plan.recipe.launch.kubernetes, plan.topology.nodes
    rendezvous = f"{names.first_host(asked.kind)}:{RENDEZVOUS_PORT}"
    place = [f"--nodes={nodes}", f"--node-rank=$({_RANK})", f"--rendezvous={rendezvous}"] if nodes > 1 else []
    rank = [{"name": _RANK, "valueFrom": {"fieldRef": {"fieldPath": _INDEX}}}] if nodes > 1 else []
    container = {
        "name": _NODE,
        "image": asked.image,
        "command": ["python3", "-m", "launcher"],
        "args": _arguments(plan, names, place),
        "env": [*_environment(plan), *rank],
        "resources": _resources(plan),
        "volumeMounts": _mounts(plan),
    }
    subdomain = {"subdomain": names.job} if nodes > 1 and asked.kind == "job" else {}
    return {"restartPolicy": "Never", **subdomain, **_around(plan, names), "containers": [container]}


def trainer(plan: Plan, names: KubernetesNames, labels: dict[str, str]) -> dict[str, Any]:
    """The trainer of a TrainJob, and what its runtime is to have besides.

    Args:
        plan: the plan.
        names: what things are called.
        labels: of its pods.
    """
    asked, nodes = plan.recipe.launch.kubernetes, plan.topology.nodes
    # What Kubeflow tells each node; Kubernetes puts the values in.
    place = [f"--nodes={nodes}", "--node-rank=$(PET_NODE_RANK)", "--rendezvous=$(PET_MASTER_ADDR):$(PET_MASTER_PORT)"]
    pod = {**_around(plan, names), "containers": [{"name": _NODE, "volumeMounts": _mounts(plan)}]}
    template = {"metadata": {"labels": labels}, "spec": pod}
    patch = {"name": names.replicated, "template": {"spec": {"template": template}}}
    return {
        "trainer": {
            "image": asked.image,
            "command": ["python3", "-m", "launcher"],
            "args": _arguments(plan, names, place if nodes > 1 else []),
            "env": _environment(plan),
            "numNodes": nodes,
            "numProcPerNode": plan.topology.nproc_per_node,
            "resourcesPerNode": _resources(plan),
        },
        "runtimePatches": [
            {
                "manager": "launcher.run/submit",
                "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [patch]}}},
            }
        ],
    }


def _arguments(plan: Plan, names: KubernetesNames, place: list[str]) -> list[str]:
    """Those of `launcher run`. What is started again goes on with the run, which need not be there any more here."""
    runs = plan.recipe.launch.kubernetes.runs_path
    run = ["run", f"{_RECIPE}/recipe.yaml", f"--runs={runs}", f"--run-id={names.run_id}", "--resume=auto"]
    # The runtime of a TrainJob may make its jobs anew, which are called otherwise then.
    anything = names.resume or plan.recipe.launch.kubernetes.kind == "trainjob"
    return [*run, *([] if anything else [f"--job=$({_JOB})"]), *place]


def _environment(plan: Plan) -> list[dict[str, Any]]:
    asked = plan.recipe.launch.kubernetes
    values = {"HOME": "/tmp", "USER": "launcher", **asked.env}  # a user whom the image may not know
    plain = [{"name": name, "value": value} for name, value in values.items()]
    secret = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": source.name, "key": source.key}}}
        for name, source in asked.secrets.items()
    ]
    return [*plain, *secret, {"name": _JOB, "valueFrom": {"fieldRef": {"fieldPath": _OF_JOB}}}]


def _resources(plan: Plan) -> dict[str, Any]:
    asked, topology = plan.recipe.launch.kubernetes, plan.topology
    cores = asked.cpus_per_node or topology.nproc_per_node * (1 + plan.recipe.data.workers)
    requests: dict[str, Any] = {"cpu": str(cores)}
    limits: dict[str, Any] = {}
    if asked.memory:
        requests["memory"] = limits["memory"] = asked.memory
    if topology.device == "cuda":
        limits[asked.gpu_resource] = str(asked.gpus_per_node or topology.nproc_per_node)
    limits |= {name: str(number) for name, number in asked.resources.items()}
    return {"requests": requests, **({"limits": limits} if limits else {})}


def _mounts(plan: Plan) -> list[dict[str, Any]]:
    asked = plan.recipe.launch.kubernetes
    return [
        {"name": "recipe", "mountPath": _RECIPE, "readOnly": True},
        {"name": "shared-memory", "mountPath": "/dev/shm"},
        {"name": "runs", "mountPath": asked.runs_path},
        *(
            {"name": f"volume-{number}", "mountPath": volume.path, **({"readOnly": True} if volume.read_only else {})}
            for number, volume in enumerate(asked.volumes)
        ),
    ]


def _around(plan: Plan, names: KubernetesNames) -> dict[str, Any]:
    """What a pod has besides its container."""
    launch = plan.recipe.launch
    asked = launch.kubernetes
    claims = [("runs", asked.runs_claim), *((f"volume-{n}", volume.claim) for n, volume in enumerate(asked.volumes))]
    around: dict[str, Any] = {"terminationGracePeriodSeconds": launch.grace_period}
    if asked.user != "image":
        user = {"runAsUser": asked.user, "runAsGroup": asked.user, "fsGroup": asked.user}
        around["securityContext"] = {"runAsNonRoot": True, **user}
    if asked.service_account:
        around["serviceAccountName"] = asked.service_account
    if asked.pull_secrets:
        around["imagePullSecrets"] = [{"name": name} for name in asked.pull_secrets]
    if asked.node_selector:
        around["nodeSelector"] = asked.node_selector
    if plan.topology.nodes > 1:
        others = {"labelSelector": {"matchLabels": {JOB_LABEL: names.job}}, "topologyKey": "kubernetes.io/hostname"}
        around["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [others]}}
    if asked.tolerations:
        around["tolerations"] = list(asked.tolerations)
    around["volumes"] = [
        {"name": "recipe", "configMap": {"name": names.job}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": asked.shared_memory}},
        *({"name": name, "persistentVolumeClaim": {"claimName": claim}} for name, claim in claims),
    ]
    return around
