"""A plan as what Kubernetes takes: a Job, a JobSet or a TrainJob. Pure: nothing is asked, written or sent here."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launcher.errors import ExitCode
from launcher.launch.elsewhere import as_planned
from launcher.launch.kubernetes_pod import JOB_LABEL, KubernetesNames, pod_spec, trainer
from launcher.launch.submission import Submission
from launcher.plan.planner import Plan
from launcher.recipe.dump import recipe_to_yaml
from launcher.recipe.schema import Recipe
from launcher.rundir.layout import RunDirectory

LABEL = JOB_LABEL
RUN_LABEL = "launcher.run/run"  # the same for all jobs of a run, and for those of no other
# What `kubectl` calls each kind, which need not be the only one of that name.
RESOURCES: dict[str, str] = {
    "job": "jobs.batch",
    "jobset": "jobsets.jobset.x-k8s.io",
    "trainjob": "trainjobs.trainer.kubeflow.org",
}
# Exit codes after which another try would end in the same way. Of several machines a rank may have failed because
# another one was lost.
_FOR_GOOD = (ExitCode.REQUEST, ExitCode.NO_CHECKPOINT)


@dataclass(frozen=True)
class KubernetesJob(Submission):
    """What is submitted, and what a dry run prints: the same object.

    Attributes:
        check: the command that lets the server say what it would do.
        manifests: the objects, in the order in which they are made.
    """

    check: tuple[str, ...] = ()
    manifests: tuple[dict[str, Any], ...] = ()

    def as_shell(self) -> str:
        """The submission as shell commands that do the same when pasted."""
        *before, last = super().as_shell().splitlines()
        return "\n".join([*before, f"{shlex.join(self.check)} && {last}"])


def kubernetes_job(
    plan: Plan, run: RunDirectory, recipe_folder: Path, number: int = 1, *, resume: bool = False
) -> KubernetesJob:
    """The job that runs a plan, on as many machines as it has, by `launcher run` on each.

    Args:
        plan: the plan, for a machine as `node_machine` describes it.
        run: the directory of the run, of which the cluster has one of the same name.
        recipe_folder: where the recipe lies here, absolute.
        number: how often the run has been submitted, this time included.
        resume: whether it may go on with a run that the cluster has already.
    """
    asked = plan.recipe.launch.kubernetes
    names = KubernetesNames.of(run.path, number, resume=resume)
    recipe = _for_the_cluster(as_planned(plan), recipe_folder)
    build = {"job": _job, "jobset": _jobset, "trainjob": _trainjob}[asked.kind]
    metadata = {"name": names.job, "labels": labels_of(plan, names)}
    if asked.namespace:
        metadata["namespace"] = asked.namespace
    manifests = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"recipe.yaml": recipe_to_yaml(recipe)}}
    ]
    if asked.kind == "job" and plan.topology.nodes > 1:
        manifests.append(_service(names, metadata))
    manifests.append(build(plan, names, metadata))
    text = "---\n".join(_text(manifest) for manifest in manifests)
    # Not "apply", which would change what another run of the same name has.
    create = ("kubectl", "create", f"--filename={run.kubernetes_manifest}")
    return KubernetesJob(
        argv=create,
        files={run.kubernetes_manifest: text},
        check=(*create, "--dry-run=server"),
        manifests=tuple(manifests),
    )


def labels_of(plan: Plan, names: KubernetesNames) -> dict[str, str]:
    """The labels of everything that is made for a job."""
    own = {"app.kubernetes.io/name": "launcher", "app.kubernetes.io/managed-by": "launcher"}
    return {**plan.recipe.launch.kubernetes.labels, **own, LABEL: names.job, RUN_LABEL: names.run}


def _for_the_cluster(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the paths of its code as they are where its pods run."""
    code = recipe.launch.kubernetes.code
    changes: dict[str, Any] = {}
    if code and recipe.task and recipe.task.entry.startswith(f"{folder}/"):
        entry = f"{code}/{recipe.task.entry.removeprefix(f'{folder}/')}"
        changes["task"] = recipe.task.model_copy(update={"entry": entry})
    if code and recipe.script:
        path = f"{code}/{Path(recipe.script.path).relative_to(folder)}"
        changes["script"] = recipe.script.model_copy(update={"path": path})
    return recipe.model_copy(update=changes)


def _job(plan: Plan, names: KubernetesNames, metadata: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": _job_spec(plan, names)}


def _job_spec(plan: Plan, names: KubernetesNames) -> dict[str, Any]:
    """An indexed job: a pod for each machine, which is made anew when Kubernetes takes it away."""
    nodes = plan.topology.nodes
    for_good = [int(code) for code in (*_FOR_GOOD, *([ExitCode.WORKER] if nodes == 1 else []))]
    return {
        "completionMode": "Indexed",
        "completions": nodes,
        "parallelism": nodes,
        # One machine that is lost is one try, but the launchers of all others end by it, and each is counted.
        "backoffLimit": plan.recipe.launch.restarts * nodes,
        "podReplacementPolicy": "Failed",  # its folder is held until it has saved and ended
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                # Told to stop, as all are when one is taken away: it has saved.
                {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [int(ExitCode.REQUEUE)]}},
                {"action": "FailJob", "onExitCodes": {"operator": "In", "values": sorted(for_good)}},
            ]
        },
        "template": {"metadata": {"labels": labels_of(plan, names)}, "spec": pod_spec(plan, names)},
    }


def _service(names: KubernetesNames, metadata: dict[str, Any]) -> dict[str, Any]:
    """What gives the pods names; the first one is asked for before it is ready."""
    spec = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {LABEL: names.job}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def _jobset(plan: Plan, names: KubernetesNames, metadata: dict[str, Any]) -> dict[str, Any]:
    job = {"metadata": {"labels": labels_of(plan, names)}, "spec": _job_spec(plan, names)}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "failurePolicy": {"maxRestarts": 0},  # the pods are made anew one by one
            "replicatedJobs": [{"name": names.replicated, "replicas": 1, "template": job}],
        },
    }


def _trainjob(plan: Plan, names: KubernetesNames, metadata: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": metadata,
        "spec": {
            "runtimeRef": {
                "apiGroup": "trainer.kubeflow.org",
                "kind": "ClusterTrainingRuntime",
                "name": plan.recipe.launch.kubernetes.runtime,
            },
            **trainer(plan, names, labels_of(plan, names)),
        },
    }


class _Dumper(yaml.SafeDumper):
    """Writes what appears twice twice, and texts of several lines as such."""

    def ignore_aliases(self, data: Any) -> bool:
        """No names for what appears twice."""
        return True


# Texts that are something else to kubectl, though not to the library that writes them.
_ELSE = re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|0o?[0-7_]+|[yYnN]")


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else "'" if _ELSE.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _block)


def _text(manifest: dict[str, Any]) -> str:
    return yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=1000)
