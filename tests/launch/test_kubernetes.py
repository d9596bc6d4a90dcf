"""Jobs for Kubernetes, as far as no cluster is needed: what is rendered, what schemas take, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet
from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob

from launcher.cli.run_here import RunChoice
from launcher.launch.kubernetes import LABEL, RUN_LABEL
from launcher.launch.kubernetes_pod import KubernetesNames
from launcher.recipe.load import load_recipe
from launcher.rundir.layout import RunDirectory
from launcher.runners.new_run import begin_new
from tests.launch.kubernetes_jobs import DIGITS, JOBS, NEEDED, ON_CPU, ON_GPUS, job_of, job_text
from tests.processes import ROOT, clean_environment, launcher, wait_until
from tests.recipes.golden import GOLDEN

CANARY = "c0ffee" * 6 + "c0de"
VERSIONS = ("1.31", "1.35")
MODELS = {"JobSet": JobsetV1alpha2JobSet, "TrainJob": TrainerV1alpha1TrainJob}
SUBMIT = ("submit", str(DIGITS), "--to", "kubernetes", "--run-id", "it")


@pytest.mark.parametrize("name", JOBS)
def test_manifests(name: str) -> None:
    """If it changed on purpose: python -m tests.launch.kubernetes_jobs, and read the difference before a commit."""
    assert job_text(name) == (GOLDEN / name).read_text()


def is_valid(manifest: dict[str, Any]) -> bool:
    """Whether a schema knows every field of an object, and its value can be."""
    model = MODELS.get(manifest["kind"])
    if model is not None:
        try:
            read = model.from_dict(deepcopy(manifest))
        except ValueError:
            return False
        return bool(read is not None and read.to_dict() == manifest)  # what the model does not know is left out
    try:
        for version in VERSIONS:
            kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError:
        return False
    return True


@pytest.mark.parametrize("name", JOBS)
def test_schemas_take_every_object(name: str) -> None:
    (text,) = job_of(JOBS[name]).files.values()
    manifests = list(yaml.safe_load_all(text))
    assert manifests == list(job_of(JOBS[name]).manifests)
    for manifest in manifests:
        assert is_valid(manifest), manifest["kind"]


@pytest.mark.parametrize("kind", ["job", "jobset", "trainjob"])
def test_a_field_that_no_schema_knows_is_found(kind: str) -> None:
    """Or the test above would show nothing."""
    manifest = deepcopy(job_of((*ON_GPUS, f"launch.kubernetes.kind={kind}")).manifests[-1])
    assert is_valid(manifest)
    pod = _pod(manifest)
    pod["terminationGracePeriod"] = pod.pop("terminationGracePeriodSeconds")
    assert not is_valid(manifest)


def _pod(manifest: dict[str, Any]) -> dict[str, Any]:
    """The spec of the pods of a job, whatever it is."""
    spec = manifest["spec"]
    if manifest["kind"] == "TrainJob":
        spec = spec["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]
    if "replicatedJobs" in spec:
        spec = spec["replicatedJobs"][0]["template"]["spec"]
    found: dict[str, Any] = spec["template"]["spec"]
    return found


@pytest.mark.parametrize("kind", ["job", "jobset", "trainjob"])
def test_a_pod_that_is_ended_has_time_to_save(kind: str) -> None:
    of_kind = (*ON_CPU, f"launch.kubernetes.kind={kind}")
    assert _pod(job_of(of_kind).manifests[-1])["terminationGracePeriodSeconds"] == 180
    longer = job_of((*of_kind, "launch.grace=1000"))
    assert _pod(longer.manifests[-1])["terminationGracePeriodSeconds"] == 1120
    shared = next(volume for volume in _pod(longer.manifests[-1])["volumes"] if volume["name"] == "shared-memory")
    assert shared["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}


@pytest.mark.parametrize("nodes", [1, 4])
def test_a_lost_machine_is_one_try_though_all_pods_end_by_it(nodes: int) -> None:
    spec = job_of((*ON_CPU, f"launch.nodes={nodes}", "launch.restarts=2")).manifests[-1]["spec"]
    assert spec["backoffLimit"] == 2 * nodes
    for_good = spec["podFailurePolicy"]["rules"][-1]
    assert for_good["action"] == "FailJob"
    assert for_good["onExitCodes"]["values"] == ([2, 3, 65] if nodes == 1 else [2, 65])


def test_the_pods_run_what_was_planned(tmp_path: Path) -> None:
    """Their recipe names ranks, device and where the code lies: a pod with less refuses it."""
    config = job_of(ON_CPU).manifests[0]["data"]["recipe.yaml"]
    (tmp_path / "recipe.yaml").write_text(config.replace("/code/task.py", str(DIGITS.parent / "task.py")))
    recipe = load_recipe(tmp_path / "recipe.yaml").recipe
    assert (recipe.launch.nodes, recipe.launch.nproc_per_node, recipe.launch.device) == (2, 2, "cpu")
    assert "entry: /code/task.py:Digits" in config


@pytest.mark.parametrize("kind", ["job", "jobset", "trainjob"])
def test_no_value_of_a_secret_is_rendered(kind: str) -> None:
    secret = "launch.kubernetes.secrets={WANDB_API_KEY: {name: wandb, key: api-key}}"
    settings = (*ON_CPU, secret, f"launch.kubernetes.kind={kind}")
    shown = launcher(*SUBMIT, *settings, "--dry-run", env={"WANDB_API_KEY": CANARY, "HF_TOKEN": CANARY})
    assert shown.returncode == 0, shown.stderr
    assert "secretKeyRef" in shown.stdout
    assert CANARY not in shown.stdout + shown.stderr


@pytest.mark.parametrize("kind", ["job", "jobset", "trainjob"])
def test_each_machine_has_one_pod(kind: str) -> None:
    of_kind = f"launch.kubernetes.kind={kind}"
    (term,) = _pod(job_of((*ON_CPU, of_kind)).manifests[-1])["affinity"]["podAntiAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    assert term == {"labelSelector": {"matchLabels": {LABEL: "it"}}, "topologyKey": "kubernetes.io/hostname"}
    assert "affinity" not in _pod(job_of((*ON_CPU, of_kind, "launch.nodes=1")).manifests[-1])


def test_names_are_what_kubernetes_takes() -> None:
    for run_id, number, name in (
        ("mine", 1, "mine"),
        ("mine", 2, "mine-2"),
        ("Mine_2.a", 1, "mine-2-a-11111111"),
        ("20260101", 1, "run-20260101-11111111"),
        ("x" * 45, 1, "x" * 45),
        ("x" * 128, 1, "x" * 35 + "-11111111"),
        ("x" * 128, 12, "x" * 32 + "-11111111-12"),
    ):
        names = KubernetesNames.of(Path("/runs") / run_id, number)
        assert names.job == name.replace("11111111", names.run)
    long = [KubernetesNames.of(Path("/runs") / ("x" * 60 + end), 1) for end in "ab"]
    assert long[0].job != long[1].job  # apply would have overwritten one with the other
    assert KubernetesNames.of(Path("/a/it"), 1).run != KubernetesNames.of(Path("/b/it"), 1).run


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "no image": (
        (*NEEDED[1:], "launch.device=cpu"),
        "launch.kubernetes.image: is missing. Name an image that has the launcher.",
    ),
    "no volume": (
        (NEEDED[0], NEEDED[2], "launch.device=cpu"),
        "launch.kubernetes.runs_claim: is missing: without a volume the run and its checkpoints would be lost",
    ),
    "code": (
        (*NEEDED[:2], "launch.device=cpu"),
        "task.py lies on this machine. Put its folder into the image or on a volume, and say where by "
        "launch.kubernetes.code.",
    ),
    "elastic": (
        (*NEEDED, "launch.device=cpu", "launch.nodes=1:4"),
        "launch.nodes: a job of Kubernetes has a fixed number of machines, not 1:4. Set launch.nodes=4.",
    ),
    "auto": (
        NEEDED,
        "launch.nproc_per_node: auto is one rank for each GPU, and how many GPUs the machines have cannot be seen",
    ),
    "too short": (
        (*ON_CPU, "launch.kubernetes.grace_period=60"),
        "launch.kubernetes.grace_period: 60 seconds are no more than launch.grace, the 60 that a run may take to save. "
        "Write 61 or more, or less for launch.grace.",
    ),
    "a secret": (
        (*ON_CPU, "launch.kubernetes.env={MY_PASSWORD: hi}"),
        "launch.kubernetes.env.MY_PASSWORD: is a secret, and the manifest is shown and kept.",
    ),
    "ray": (
        (*ON_CPU, "launch.method=ray"),
        "launch.method: ray would look for a Ray cluster in each pod, and Kubernetes places the ranks here. "
        "Set launch.method=torchrun, or hand it to a Ray cluster by --to ray.",
    ),
    "runs over the recipe": (
        (*ON_CPU, "launch.kubernetes.runs_path=/recipe/"),
        "launch.kubernetes.runs_path: /recipe is where the recipe is. Choose another path.",
    ),
    "no shared memory": (
        (*ON_CPU, "launch.kubernetes.volumes=[{claim: data, path: /dev/shm}]"),
        "launch.kubernetes.volumes: /dev/shm is where the shared memory is. Choose another path.",
    ),
    "no label": (
        (*ON_CPU, "launch.kubernetes.labels={two words: x}"),
        "launch.kubernetes.labels: 'two words' is no key of a label. Use up to 63 letters",
    ),
    "no value of a label": (
        (*ON_CPU, "launch.kubernetes.node_selector={gpu: -h100}"),
        "launch.kubernetes.node_selector.gpu: '-h100' is no value of a label. Use up to 63 letters",
    ),
    "no toleration": (
        (*ON_CPU, "launch.kubernetes.tolerations=[{keys: gpu}]"),
        "launch.kubernetes.tolerations: 'keys' is no part of a toleration. They are key, operator, value, effect",
    ),
    "a toleration of all": (
        (*ON_CPU, "launch.kubernetes.tolerations=[{value: x}]"),
        "launch.kubernetes.tolerations: a toleration without a key is one of every taint. Name a key, or write",
    ),
    "twice": (
        (*ON_CPU, "launch.kubernetes.volumes=[{claim: data, path: /runs}]"),
        "launch.kubernetes.volumes: two volumes are mounted at /runs. Choose another path.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_recipe_that_cannot_run_there_is_refused(name: str, tmp_path: Path) -> None:
    settings, said = REFUSED[name]
    done = launcher(*SUBMIT, *settings, "--runs", str(tmp_path / "runs"))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("kind", ["job", "jobset"])
def test_only_a_job_that_may_resumes_what_another_has_begun(kind: str) -> None:
    settings = (*ON_CPU, f"launch.kubernetes.kind={kind}", "--dry-run")
    assert "--job=$(JOB_UID)" in launcher(*SUBMIT, *settings).stdout
    assert "--job=" not in launcher(*SUBMIT, *settings, "--resume", "auto").stdout


def test_a_job_goes_on_with_its_own_run_alone(tmp_path: Path) -> None:
    """Its pods are told --resume=auto, but a run of the same id may be on the volume that is another one."""
    run = RunDirectory(tmp_path)
    begin_new(run, "mine")
    run.status.write_text("{}")
    for job, goes_on in (("mine", True), ("other", False), (None, True)):
        assert RunChoice(tmp_path.parent, tmp_path.name, resume=True, job=job).goes_on(run) is goes_on
    assert not RunChoice(tmp_path.parent, tmp_path.name, job="mine").goes_on(run)
    run.begun_by.unlink()
    assert not RunChoice(tmp_path.parent, tmp_path.name, resume=True, job="mine").goes_on(run)


def test_texts_stay_texts() -> None:
    """kubectl, which is written in Go, takes more texts for numbers than the library that writes them."""
    values = {"A": "1e3", "B": "12345e67", "C": "y", "D": "0o17", "E": "12", "F": "text"}
    (text,) = job_of((*ON_CPU, f"launch.kubernetes.env={json.dumps(values)}")).files.values()
    for value in list(values.values())[:-1]:
        assert f"value: '{value}'\n" in text


def test_code_beside_the_folder_of_the_recipe_is_refused(tmp_path: Path) -> None:
    """It would be named by its path on this machine, and the pods would not find it."""
    own, shared = tmp_path / "own", tmp_path / "shared"
    own.mkdir()
    shutil.copytree(DIGITS.parent, shared)
    loop = (ROOT / "recipes" / "plain_loop" / "recipe.yaml").read_text().replace("train.py", "../shared/task.py")
    for name, text, key in (
        ("task.yaml", DIGITS.read_text().replace("task.py", "../shared/task.py"), "task.entry"),
        ("script.yaml", loop, "script.path"),
    ):
        (own / name).write_text(text)
        done = launcher("submit", str(own / name), *ON_CPU, "--to", "kubernetes", "--run-id", "it", "--dry-run")
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert f"{key}: {own}/../shared/task.py is not below {own}." in done.stderr


# Stands for kubectl where no cluster is: writes down what it is told, and says what a test wants.
KUBECTL = """#!/bin/sh
echo "$@" >> "$TOLD"
case "$*" in
  *--dry-run=server*) [ -z "$REFUSES" ] || { echo "error: $REFUSES" >&2; exit 1; } ;;
  create*)
    echo configmap/it created
    [ -z "$SLOW" ] || sleep "$SLOW"
    [ -z "$FAILS" ] || { echo "$FAILS" >&2; exit 1; } ;;
  config*current-context) [ -z "$CONTEXT" ] || { echo "$CONTEXT"; exit 0; }; exit 1 ;;
  config*) echo lab ;;
  delete*) [ -z "$KEEPS" ] || { echo "error: $KEEPS" >&2; exit 1; } ;;
  get*pods*) cat "$PODS" ;;
  logs*) cat "$LOGS" ;;
  get*) cat "$STATE" ;;
esac
"""


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "kubectl").write_text(KUBECTL)
    (programs / "kubectl").chmod(0o755)
    files = {name: str(tmp_path / name.lower()) for name in ("TOLD", "STATE", "PODS", "LOGS")}
    for path in files.values():
        Path(path).touch()
    unset = dict.fromkeys(("REFUSES", "FAILS", "SLOW", "CONTEXT", "KEEPS"), "")
    return {"PATH": f"{programs}:{os.environ['PATH']}", **files, **unset}


def told(cluster: dict[str, str]) -> list[str]:
    """What kubectl was told to make or to delete."""
    lines = Path(cluster["TOLD"]).read_text().splitlines()
    return [line for line in lines if line.startswith(("create", "delete"))]


def test_what_is_shown_is_what_is_created(cluster: dict[str, str], tmp_path: Path) -> None:
    runs = ("--runs", str(tmp_path / "runs"))
    shown = launcher(*SUBMIT, *ON_CPU, *runs, "--dry-run", env=cluster)
    assert not (tmp_path / "runs").exists()
    done = launcher(*SUBMIT, *ON_CPU, *runs, env=cluster)
    assert done.returncode == 0, done.stderr
    manifest = tmp_path / "runs" / "it" / "kubernetes" / "manifest.yaml"
    assert manifest.read_text().strip() in shown.stdout
    create = f"create --filename={manifest}"
    assert told(cluster) == [f"{create} --dry-run=server", create]
    assert shown.stdout.endswith(f"kubectl {create} --dry-run=server && kubectl {create}\n")

    (tmp_path / "state").write_text('{"spec": {"parallelism": 2}, "status": {"ready": 1}}')
    assert "job: it, Active, 1 of 2 pods ready" in launcher("status", "it", *runs, env=cluster).stdout
    assert launcher(*SUBMIT, *ON_CPU, *runs, env=cluster).returncode == 73
    conditions = '[{"type": "Failed", "status": "True", "reason": "PodFailurePolicy"}]'
    (tmp_path / "state").write_text(f'{{"status": {{"conditions": {conditions}}}}}')
    assert "job: it, Failed, PodFailurePolicy" in launcher("status", "it", *runs, env=cluster).stdout
    again = launcher(*SUBMIT, *ON_CPU, *runs, env=cluster)
    assert "job: it-2 (launcher status it-2" in again.stdout  # the one before is still there
    (tmp_path / "state").write_text("{}")
    Path(cluster["TOLD"]).unlink()
    assert launcher("cancel", "it-2", *runs, env=cluster).returncode == 0
    selected = f"--selector={LABEL}=it-2,{RUN_LABEL}={KubernetesNames.of(tmp_path / 'runs' / 'it', 2).run}"
    assert told(cluster)[0] == f"delete jobs.batch {selected} --wait --cascade=foreground"


def test_a_job_that_has_ended_leaves_nothing_once_it_is_cancelled(cluster: dict[str, str], tmp_path: Path) -> None:
    """Its configuration and its service would stay for ever: nothing owns them."""
    runs = ("--runs", str(tmp_path / "runs"))
    assert launcher(*SUBMIT, *ON_CPU, *runs, env=cluster).returncode == 0
    Path(cluster["STATE"]).write_text('{"status": {"conditions": [{"type": "Complete", "status": "True"}]}}')
    assert launcher("cancel", "it", *runs, env=cluster).returncode == 0
    mark = KubernetesNames.of(tmp_path / "runs" / "it", 1).run
    assert told(cluster)[-1] == f"delete jobs.batch,configmaps,services --selector={RUN_LABEL}={mark}"


def test_the_cluster_of_a_job_is_asked_for_it(cluster: dict[str, str], tmp_path: Path) -> None:
    """Whatever kubectl's context is by then; context names hold slashes and colons."""
    runs = ("--runs", str(tmp_path / "runs"))
    there = "arn:aws:eks:eu:1/big"
    assert launcher(*SUBMIT, *ON_CPU, *runs, env={**cluster, "CONTEXT": there}).returncode == 0
    Path(cluster["TOLD"]).write_text("")
    launcher("status", "it", *runs, env={**cluster, "CONTEXT": "another"})
    launcher("logs", "it", *runs, env={**cluster, "CONTEXT": "another"})
    Path(cluster["STATE"]).write_text("{}")
    launcher("cancel", "it", *runs, env={**cluster, "CONTEXT": "another"})
    lines = Path(cluster["TOLD"]).read_text().splitlines()
    assert len(lines) > 4
    assert all(f" --context={there} --namespace=lab" in line for line in lines), lines


def test_an_engine_that_is_down_hides_no_other_run(cluster: dict[str, str], tmp_path: Path) -> None:
    runs = ("--runs", str(tmp_path / "runs"))
    assert launcher(*SUBMIT, *ON_CPU, *runs, env=cluster).returncode == 0
    slurm = tmp_path / "runs" / "later" / "slurm"
    slurm.mkdir(parents=True)
    (slurm / "job_id").write_text("12\n")
    done = launcher("status", *runs, env={"PATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (2, "")
    ours, slurms = [line for line in done.stdout.splitlines() if line.startswith("job: ")]
    assert ours.startswith("job: it, Kubernetes does not answer: kubectl is not installed here, and it is what")
    assert slurms.startswith("job: 12, Slurm does not answer: Slurm is not installed here: there is no squeue.")


def test_a_job_of_that_name_of_another_run_is_not_meant(cluster: dict[str, str], tmp_path: Path) -> None:
    runs = ("--runs", str(tmp_path / "runs"))
    assert launcher(*SUBMIT, *ON_CPU, *runs, env=cluster).returncode == 0
    Path(cluster["STATE"]).write_text(f'{{"metadata": {{"labels": {{"{RUN_LABEL}": "another"}}}}}}')
    assert "job: it, which Kubernetes knows no more" in launcher("status", "it", *runs, env=cluster).stdout


def test_what_is_interrupted_leaves_nothing(cluster: dict[str, str], tmp_path: Path) -> None:
    """And where it cannot be deleted, what it is called stays, so that it can be later."""
    runs, mark = tmp_path / "new" / "runs", KubernetesNames.of(tmp_path / "new" / "runs" / "it", 1).run
    for keeps in ("", "the server is gone"):
        Path(cluster["TOLD"]).write_text("")
        command = [sys.executable, "-m", "launcher", *SUBMIT, *ON_CPU, "--runs", str(runs)]
        env = clean_environment(**{**cluster, "SLOW": "30", "KEEPS": keeps})
        with subprocess.Popen(command, env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True) as submitting:
            wait_until(lambda: len(told(cluster)) == 2)
            assert (runs / "it" / "kubernetes" / "job_id").exists()
            submitting.send_signal(signal.SIGINT)
            _, said = submitting.communicate(timeout=20)
        selected = f"--selector={LABEL}=it,{RUN_LABEL}={mark}"
        assert told(cluster)[-1] == f"delete jobs.batch,configmaps,services {selected} --ignore-not-found --wait=false"
        if keeps:
            assert submitting.returncode == 2
            assert said.startswith("launcher: What was made may be left. kubectl delete refuses: error: the server is")
            assert "job: it" in launcher("status", "it", "--runs", str(runs), env=cluster).stdout
        else:
            assert (submitting.returncode, said) == (130, "")
            assert not (tmp_path / "new").exists()  # nor the folders that were made for it


BEGUN = '{"items": [{"metadata": {"name": "it-0-a"}, "status": {"phase": "Running"}}%s]}'


def test_logs_are_followed_until_the_job_has_ended(cluster: dict[str, str], tmp_path: Path) -> None:
    """Pods begin late, and others take their place; whatever was printed is shown once."""
    runs = ("--runs", str(tmp_path / "runs"))
    assert launcher(*SUBMIT, *ON_CPU, *runs, env=cluster).returncode == 0
    state, pods, logs = (Path(cluster[name]) for name in ("STATE", "PODS", "LOGS"))
    state.write_text("{}")
    pods.write_text('{"items": [{"metadata": {"name": "it-0-a"}, "status": {"phase": "Pending"}}]}')
    command = [sys.executable, "-u", "-m", "launcher", "logs", "-f", "it", *runs]
    with subprocess.Popen(command, env=clean_environment(**cluster), cwd=ROOT, stdout=subprocess.PIPE, text=True) as it:
        assert it.stdout
        time.sleep(3)
        assert it.poll() is None
        first = "[pod/it-0-a/node] 2026-01-01T00:00:00.1Z one\n[pod/it-0-a/node] 2026-01-01T00:00:00.1Z one\n"
        logs.write_text(f'{first}error: container "node" in pod "it-1-a" is waiting to start: ContainerCreating\n')
        pods.write_text(BEGUN % "")
        assert [it.stdout.readline() for _ in range(2)] == ["[pod/it-0-a/node] one\n"] * 2
        second = "[pod/it-0-a/node] 2026-01-01T00:00:00.12Z bar 1\rbar 2\n[pod/it-0-b/node] 2026-01-01T00:01:00Z 2\n"
        logs.write_text(first + second)
        assert [it.stdout.readline() for _ in range(2)] == ["[pod/it-0-a/node] bar 1\n", "bar 2\n"]
        assert it.stdout.readline() == "[pod/it-0-b/node] 2\n"
        state.write_text('{"status": {"conditions": [{"type": "Complete", "status": "True"}]}}')
        assert (it.communicate(timeout=30)[0], it.returncode) == ("", 0)


@pytest.mark.parametrize("answer", ["", "no JSON", "\xff\xfe", "{}", "[]", "null", "[1]", "1"])
def test_an_answer_that_is_none_is_one_sentence(answer: str, cluster: dict[str, str], tmp_path: Path) -> None:
    runs = ("--runs", str(tmp_path / "runs"))
    assert launcher(*SUBMIT, *ON_CPU, *runs, env=cluster).returncode == 0
    for name in ("STATE", "PODS", "LOGS"):
        Path(cluster[name]).write_bytes(answer.encode("latin-1"))
    for command in (("status", "it"), ("logs", "it"), ("cancel", "it")):
        done = launcher(*command, *runs, env=cluster)
        assert done.returncode in (0, 2)
        assert len(done.stderr.splitlines()) <= 1, done.stderr
        assert done.returncode == 0 or "launcher: " in done.stderr or "does not answer" in done.stdout


def test_what_the_server_refuses_leaves_nothing(cluster: dict[str, str], tmp_path: Path) -> None:
    done = launcher(*SUBMIT, *ON_CPU, "--runs", str(tmp_path / "runs"), env={**cluster, "REFUSES": "no such queue"})
    assert (done.returncode, done.stderr) == (2, "launcher: kubectl create refuses: error: no such queue.\n")
    assert len(told(cluster)) == 1  # nothing was created
    assert not (tmp_path / "runs" / "it").exists()


def test_what_was_made_before_a_refusal_is_deleted(cluster: dict[str, str], tmp_path: Path) -> None:
    """And the sentence has neither kubectl's own log, nor the same twice, nor its advice to check nothing."""
    advice = "if you choose to ignore these errors, turn validation off with --validate=false"
    fails = f"E1128 14:22:38.754661   15713 memcache.go:265] x\nerror: full; {advice}\nerror: full"
    settings = (*ON_CPU, "launch.kubernetes.namespace=lab")
    done = launcher(*SUBMIT, *settings, "--runs", str(tmp_path / "runs"), env={**cluster, "FAILS": fails})
    assert (done.returncode, done.stderr) == (2, "launcher: kubectl create refuses: error: full.\n")
    assert told(cluster)[-1] == "delete configmap/it --namespace=lab --ignore-not-found"
    assert not (tmp_path / "runs" / "it").exists()


def test_nothing_printed_is_said(cluster: dict[str, str], tmp_path: Path) -> None:
    runs = ("--runs", str(tmp_path / "runs"))
    assert launcher(*SUBMIT, *ON_CPU, *runs, env=cluster).returncode == 0
    for follow in ((), ("-f",)):
        done = launcher("logs", *follow, "it", *runs, env=cluster)
        ask = f"launcher status it --runs {tmp_path / 'runs'}"
        said = f"launcher: Job it has printed nothing yet. Ask how it stands: {ask}\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_without_kubectl_one_sentence_says_so(tmp_path: Path) -> None:
    done = launcher(*SUBMIT, *ON_CPU, "--runs", str(tmp_path), env={"PATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (
        2,
        "launcher: kubectl is not installed here, and it is what Kubernetes is asked by.\n",
    )
