"""Jobs on a real API server: what it makes of them, and what it says to those who submit, ask and cancel.

It is 1.20 where it is made of Debian's source, which does not know three fields of a job yet: a job has no index there
(1.21), and no rules for failures (1.25) and for replacements (1.28). Those fields are shown by the schemas of newer
versions in tests/launch/test_kubernetes.py, and here in JobSets, whose definition has them. All else is the server's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from tests.kubernetes.compare import lost, schema_of, unknown
from tests.kubernetes.definitions import jobset, trainjob
from tests.kubernetes.node import Node
from tests.kubernetes.server import GUEST, Server
from tests.kubernetes.submitted import INDEXED, Submitted
from tests.launch.kubernetes_jobs import JOBS, ON_CPU, ON_GPUS, job_of
from tests.processes import wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
CANARY = "c0ffee" * 6 + "c0de"
NEWER = {"spec.completionMode", "spec.podFailurePolicy", "spec.podReplacementPolicy"}
CORE = [name for name in JOBS if name not in ("kubernetes-jobset.yaml", "kubernetes-trainjob.yaml")]
KINDS = {"jobset": jobset, "trainjob": trainjob}
MINE = "app.kubernetes.io/managed-by=launcher"


@pytest.fixture
def it(server: Server, runs: Path) -> Iterator[Submitted]:
    """A run of a test; what is left of its jobs goes with it."""
    yield Submitted(server, runs)
    left = ("jobs.batch,pods,services,configmaps", f"--selector={MINE}", "--all-namespaces", "--output=name")
    if server.kubectl("get", *left).stdout:
        for namespace in [one["metadata"]["name"] for one in server.read("namespaces")["items"]]:
            server.kubectl("delete", *left[:2], f"--namespace={namespace}", "--force", "--grace-period=0")


@pytest.fixture
def lab(server: Server) -> Iterator[str]:
    """A namespace that a test has for itself."""
    name = f"lab-{token_hex(4)}"
    server.kubectl("create", "namespace", name)
    yield name
    server.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def named_lab(server: Server) -> None:
    """The namespace that the jobs on GPUs name."""
    server.kubectl("create", "namespace", "lab")


@pytest.fixture(params=KINDS)
def custom(server: Server, it: Submitted, request: pytest.FixtureRequest) -> Iterator[Submitted]:
    """A run of a kind that the server is told about."""
    definition = KINDS[request.param]()
    name = f"customresourcedefinitions/{definition['metadata']['name']}"
    server.kubectl("create", "--filename=-", stdin=json.dumps(definition))
    wait_until(lambda: server.kubectl("get", definition["metadata"]["name"], check=False).returncode == 0)
    it.kind = request.param
    yield it
    server.kubectl("delete", name)


def taken(server: Server, manifest: dict[str, Any]) -> dict[str, Any]:
    """What the server would hold of an object; it is the server that decides, and not kubectl."""
    asked = ("create", "--dry-run=server", "--validate=false", "--output=json", "--filename=-")
    found: dict[str, Any] = json.loads(server.kubectl(*asked, stdin=json.dumps(manifest)).stdout)
    return found


@pytest.mark.usefixtures("named_lab")
@pytest.mark.parametrize("name", CORE)
def test_the_server_takes_every_object(server: Server, name: str) -> None:
    definitions = json.loads(server.kubectl("get", "--raw=/openapi/v2").stdout)["definitions"]
    for manifest in job_of(JOBS[name]).manifests:
        strange = set(unknown(manifest, schema_of(manifest, definitions), definitions))
        assert strange <= (NEWER if manifest["kind"] == "Job" and server.version() < INDEXED else set())
        assert set(lost(manifest, taken(server, manifest))) == strange


WRONG: dict[str, tuple[int, str, Any]] = {
    "a name with capitals": (0, "metadata.name", "It_1"),
    "a name that is too long for its pods": (2, "metadata.name", "x" * 70),
    "a label that is no word": (2, "metadata.labels", {"a": "two words"}),
    "a number for a text": (0, "data", {"recipe.yaml": 1}),
    "a text for a number": (2, "spec.completions", "two"),
    "no address": (1, "spec.clusterIP", "here"),
    "no quantity": (2, "spec.template.spec.containers.0.resources", {"requests": {"cpu": "two cores"}}),
    "less than what it may have": (2, "spec.template.spec.containers.0.resources", {"limits": {"memory": "-1"}}),
    "a variable without a name": (2, "spec.template.spec.containers.0.env", [{"value": "x"}]),
    "a mount of no volume": (2, "spec.template.spec.volumes", []),
    "a restart that a job cannot have": (2, "spec.template.spec.restartPolicy", "Always"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_refused_by_the_server(server: Server, name: str) -> None:
    """Or the test above would show little."""
    which, path, value = WRONG[name]
    manifest = deepcopy(job_of(ON_CPU).manifests[which])
    *before, last = path.split(".")
    part: Any = manifest
    for key in before:
        part = part[int(key) if key.isdecimal() else key]
    assert last in part
    part[last] = value
    asked = ("create", "--dry-run=server", "--validate=false", "--filename=-")
    assert server.kubectl(*asked, stdin=json.dumps(manifest), check=False).returncode == 1


def refused(it: Submitted, *more: str, namespace: str = "default", **env: str) -> str:
    """Submit what is refused, with nothing left anywhere; the one sentence that says why."""
    done = it.submit(*more, **env)
    assert done.returncode == 2, done.stdout + done.stderr
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("launcher: kubectl create refuses: ")
    assert "--validate" not in sentence
    assert not (it.runs / "it").exists()
    left = ("configmaps,services,jobs.batch,pods", f"--selector={MINE}", f"--namespace={namespace}", "--output=name")
    assert it.server.kubectl("get", *left).stdout == ""
    return sentence


def test_a_server_that_is_too_old_for_the_job_is_no_place_for_it(it: Submitted) -> None:
    """It would drop what it does not know: pods without ranks."""
    if it.server.version() >= INDEXED:
        pytest.skip("this server knows all that a job asks for")
    assert 'unknown field "completionMode"' in refused(it, ADDED="")


def test_a_namespace_that_there_is_not(it: Submitted) -> None:
    said = refused(it, "launch.kubernetes.namespace=nowhere", namespace="nowhere")
    assert said.count('namespaces "nowhere" not found') == 1


def test_a_quota(it: Submitted, lab: str) -> None:
    needs_controllers(it.server)
    it.server.kubectl("create", "quota", "none", "--hard=count/jobs.batch=0", f"--namespace={lab}")
    wait_until(lambda: bool(it.server.read("quota/none", f"--namespace={lab}").get("status")))
    said = refused(it, f"launch.kubernetes.namespace={lab}", namespace=lab)
    assert "exceeded quota: none, requested: count/jobs.batch=1" in said


def test_a_user_who_may_not(it: Submitted, lab: str) -> None:
    guest = it.server.as_user(GUEST)["KUBECONFIG"]
    inside = f"--namespace={lab}"
    settings = f"launch.kubernetes.namespace={lab}"
    assert 'User "guest" cannot create resource "configmaps"' in refused(it, settings, namespace=lab, KUBECONFIG=guest)
    it.server.kubectl("create", "role", "some", "--verb=create", "--resource=configmaps,services", inside)
    it.server.kubectl("create", "rolebinding", "some", "--role=some", f"--user={GUEST}", inside)
    said = refused(it, settings, namespace=lab, KUBECONFIG=guest)
    assert f'User "guest" cannot create resource "jobs" in API group "batch" in the namespace "{lab}"' in said
    assert "configmaps" not in said


def test_what_no_check_can_see(it: Submitted, lab: str) -> None:
    """The server takes the dry run, and then two of three objects: they are deleted again, and nothing else is."""
    inside = f"--namespace={lab}"
    others = "--verb=create,get,delete"
    it.server.kubectl("create", "role", "some", others, "--resource=configmaps,services", inside)
    it.server.kubectl("create", "rolebinding", "some", "--role=some", f"--user={GUEST}", inside)
    it.server.kubectl("create", "role", "jobs", "--verb=create", "--resource=jobs.batch", inside)
    it.server.kubectl("create", "rolebinding", "jobs", "--role=jobs", f"--user={GUEST}", inside)
    it.server.kubectl("create", "configmap", "other", inside)
    admin = it.server.environment["KUBECONFIG"]
    environment = {
        "KUBECONFIG": it.server.as_user(GUEST)["KUBECONFIG"],
        "BETWEEN": f"KUBECONFIG={admin} kubectl delete rolebinding jobs {inside}; sleep 2",
    }
    said = refused(it, f"launch.kubernetes.namespace={lab}", namespace=lab, **environment)
    assert 'cannot create resource "jobs"' in said
    made = it.told()
    assert [command.split()[1] for command in made if "rolebinding" not in command] == ["create", "create", "delete"]
    assert made[-1].startswith("kubectl delete configmap/it service/it ")
    assert "configmap/other" in it.server.kubectl("get", "configmaps", inside, "--output=name").stdout

    it.server.kubectl("create", "rolebinding", "jobs", "--role=jobs", f"--user={GUEST}", inside)
    it.server.kubectl("delete", "role", "some", inside)
    it.server.kubectl("create", "role", "some", "--verb=create", "--resource=configmaps,services", inside)
    done = it.submit(f"launch.kubernetes.namespace={lab}", **environment)
    assert done.returncode == 2
    assert "What was made before is left: configmap/it, service/it." in done.stderr
    assert 'cannot delete resource "configmaps"' in done.stderr


def test_a_kind_that_the_server_does_not_know(it: Submitted) -> None:
    it.kind = "jobset"
    assert 'no matches for kind "JobSet"' in refused(it)


def test_a_job_from_its_submission_to_its_end(it: Submitted) -> None:
    needs_controllers(it.server)
    shown = it.submit("--dry-run")
    assert not it.runs.exists()
    assert it.told() == []
    done = it.submit()
    assert done.returncode == 0, done.stderr
    assert "job: it (launcher status it" in done.stdout
    assert shown.stdout.splitlines()[-1] == " && ".join(it.told())  # what was shown is what was done
    assert it.manifest.read_text().strip() in shown.stdout
    assert it.made() == {"configmap/it", "service/it", "job.batch/it"}
    for manifest in job_of(ON_CPU, it.runs / "it").manifests:
        held = it.server.read(f"{manifest['kind'].lower()}/it")
        if manifest["kind"] != "ConfigMap":
            assert set(lost(manifest, held)) <= NEWER
    wait_until(lambda: len(it.pods()) == 2)

    assert it.launcher("status", "it").stdout.splitlines()[1:] == [
        "state: its files are in the cluster: see the logs of its job",
        "job: it, Active, 0 of 2 pods ready",
    ]
    logs = it.launcher("logs", "it")
    said = f"launcher: Job it has printed nothing yet. Ask how it stands: launcher status it --runs {it.runs}\n"
    assert (logs.returncode, logs.stdout, logs.stderr) == (2, "", said)
    again = it.submit()
    assert (again.returncode, "has job it already, which is Active" in again.stderr) == (73, True)

    with it.start("logs", "-f", "it") as following:
        time.sleep(4)
        assert following.poll() is None  # its pods may still begin
        ended = it.launcher("cancel", "it")
        told = following.communicate(timeout=60)
    assert (following.returncode, *told) == (2, "", said)
    assert ended.returncode == 0, ended.stderr
    assert "job: it, which Kubernetes knows no more" in ended.stdout
    assert (it.made(), it.pods()) == (set(), [])
    assert "job: it, which Kubernetes knows no more" in it.launcher("status", "it").stdout
    assert "there is nothing to end" in it.launcher("cancel", "it").stdout


def test_the_logs_of_pods(it: Submitted) -> None:
    """The server asks their node, which is not a real one: lines of a pod that look like kubectl's log stay."""
    needs_controllers(it.server)
    assert it.submit().returncode == 0
    wait_until(lambda: len(it.pods()) == 2)
    lines = ("E1128 14:22:38.754661 not kubectl's", "epoch 1: loss 0.5")
    with Node(it.server) as node:
        for number, pod in enumerate(it.pods()):
            node.output[pod] = f"{lines[0]}\n{lines[1]} on {number}\n"
            it.place(pod, node.name)
        expected = {f"[pod/{pod}/node] {line}" for pod, text in node.output.items() for line in text.splitlines()}
        told = it.launcher("logs", "it")
        assert (told.returncode, set(told.stdout.splitlines())) == (0, expected), told.stderr
        with it.start("logs", "-f", "it") as following:
            assert following.stdout
            first = {following.stdout.readline().rstrip() for _ in expected}
            assert (first, following.poll()) == (expected, None)
            node.ended.set()
            time.sleep(4)
            assert following.poll() is None  # others may take their place
            assert it.launcher("cancel", "it", "--now").returncode == 0
            rest = following.communicate(timeout=60)
        assert (following.returncode, *rest) == (0, "", "")
    assert it.submit("--resume", "auto").returncode == 0
    wait_until(lambda: len(it.pods("it-2")) == 2)
    for pod in it.pods("it-2"):
        it.place(pod, Node.name)
    failed = it.launcher("logs", "it")  # its node is gone
    (sentence,) = failed.stderr.splitlines()
    assert failed.returncode == 2
    assert sentence.startswith("launcher: kubectl logs has failed: "), sentence


def test_who_cancels_waits_for_the_pods(it: Submitted) -> None:
    needs_controllers(it.server)
    assert it.submit().returncode == 0
    wait_until(lambda: len(it.pods()) == 2)
    for pod in it.pods():
        it.place(pod)
    with it.start("cancel", "it") as cancelling:
        wait_until(lambda: all("deletionTimestamp" in pod["metadata"] for pod in it.server.read("pods")["items"]))
        for pod in it.server.read("pods")["items"]:
            assert pod["metadata"]["deletionGracePeriodSeconds"] == 180  # the time that it has to save
        time.sleep(2)
        assert cancelling.poll() is None
        assert it.made() == {"configmap/it", "service/it", "job.batch/it"}  # those that end may still read the recipe
        for pod in it.pods():
            it.gone(pod)
        said, _ = cancelling.communicate(timeout=60)
    assert cancelling.returncode == 0
    assert "job: it, which Kubernetes knows no more" in said
    assert (it.made(), it.pods()) == (set(), [])


def test_who_cancels_now_does_not_wait(it: Submitted) -> None:
    needs_controllers(it.server)
    assert it.submit().returncode == 0
    wait_until(lambda: len(it.pods()) == 2)
    for pod in it.pods():
        it.place(pod)
    ended = it.launcher("cancel", "it", "--now")
    assert ended.returncode == 0, ended.stderr
    wait_until(lambda: (it.made(), it.pods()) == (set(), []))


@pytest.mark.parametrize(("phase", "state"), [("Succeeded", "Complete"), ("Failed", "Failed, BackoffLimitExceeded")])
def test_a_job_that_has_ended_makes_room_for_another(it: Submitted, phase: str, state: str) -> None:
    needs_controllers(it.server)
    assert it.submit("launch.restarts=0").returncode == 0
    wait_until(lambda: len(it.pods()) == 2)
    pods = it.pods()
    for pod in pods:
        it.place(pod)
    for pod in pods if phase == "Succeeded" else pods[:1]:
        it.says(pod, phase)
    wait_until(lambda: f"job: it, {state}" in it.launcher("status", "it").stdout, 60)
    again = it.submit("launch.restarts=0")
    assert "job: it-2 (launcher status it-2" in again.stdout, again.stderr
    assert it.made("it-2") == {"configmap/it-2", "service/it-2", "job.batch/it-2"}
    assert it.made("it") == {"configmap/it", "service/it", "job.batch/it"}


def test_a_job_of_the_same_name_is_left_alone(it: Submitted, tmp_path: Path) -> None:
    """Whoever submits from another folder cannot know of it; its recipe would be exchanged under its pods."""
    assert it.submit().returncode == 0
    before = it.server.read("configmaps/it", "jobs.batch/it")
    other = Submitted(it.server, tmp_path / "other")
    other.folder.mkdir()
    done = other.submit("optimizer.lr=1")
    assert (done.returncode, 'configmaps "it" already exists' in done.stderr) == (2, True), done.stderr
    after = it.server.read("configmaps/it", "jobs.batch/it")
    for ours, still in zip(before["items"], after["items"], strict=True):
        assert ours["metadata"]["uid"] == still["metadata"]["uid"]
        assert ours.get("data") == still.get("data")
    assert not (other.runs / "it").exists()


def test_a_server_that_does_not_answer(it: Submitted, tmp_path: Path) -> None:
    assert it.submit().returncode == 0
    config = json.loads(Path(it.server.environment["KUBECONFIG"]).read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    nobody = it.folder / "nobody.kubeconfig"
    nobody.write_text(json.dumps(config))
    status = it.launcher("status", "it", KUBECONFIG=str(nobody))
    assert (status.returncode, status.stderr) == (2, "")
    assert "job: it, Kubernetes does not answer: kubectl get refuses: The connection" in status.stdout
    for command in (("logs", "it"), ("logs", "-f", "it"), ("cancel", "it")):
        done = it.launcher(*command, KUBECONFIG=str(nobody))
        assert (done.returncode, done.stdout) == (2, ""), command
        (sentence,) = done.stderr.splitlines()
        assert sentence.startswith("launcher: kubectl ")
        assert "The connection to the server 127.0.0.1:9 was refused" in sentence
        assert "memcache" not in sentence
    other = Submitted(it.server, tmp_path / "other")
    other.folder.mkdir()
    done = other.submit(KUBECONFIG=str(nobody), ADDED="")
    (sentence,) = done.stderr.splitlines()
    assert (done.returncode, "refused" in sentence, "--validate" in sentence) == (2, True, False)
    assert not (other.runs / "it").exists()


def test_the_server_holds_no_value_of_a_secret(it: Submitted) -> None:
    names = ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY")
    secret = "launch.kubernetes.secrets={WANDB_API_KEY: {name: wandb, key: api-key}}"
    assert it.submit(secret, **dict.fromkeys(names, CANARY)).returncode == 0
    held = it.server.kubectl("get", "all,configmaps,secrets", "--all-namespaces", "--output=yaml").stdout
    assert "secretKeyRef" in held
    assert CANARY not in held
    assert b"secretKeyRef" in it.server.store()
    assert CANARY.encode() not in it.server.store()


def test_jobsets_and_trainjobs(custom: Submitted) -> None:
    needs_controllers(custom.server)
    it, resource = custom, f"{custom.kind}s/it"
    done = it.submit(ADDED="")  # kubectl looks at each field too
    assert done.returncode == 0, done.stderr
    assert it.made() == {"configmap/it"}
    (_, manifest) = job_of((*ON_CPU, f"launch.kubernetes.kind={it.kind}"), it.runs / "it").manifests
    assert list(lost(manifest, it.server.read(resource))) == []
    assert "job: it, Active" in it.launcher("status", "it").stdout
    assert it.submit().returncode == 73
    ended = {"type": "Failed", "status": "True", "reason": "FailedJobs", "message": "it has failed"}
    condition = {**ended, "lastTransitionTime": "2026-01-01T00:00:00Z"}
    path = f"/apis/{manifest['apiVersion']}/namespaces/default/{resource}"
    it.server.say(path, {"conditions": [condition]})
    assert "job: it, Failed, FailedJobs: it has failed" in it.launcher("status", "it").stdout
    assert "job: it-2 " in it.submit().stdout
    cancelled = it.launcher("cancel", "it-2")
    assert cancelled.returncode == 0, cancelled.stderr
    assert it.made("it-2") == set()
    listed = it.server.kubectl("get", f"{it.kind}s", "--output=name").stdout
    assert listed.strip().rpartition("/")[2] == "it"


@pytest.mark.usefixtures("named_lab")
def test_all_fields_of_jobsets_and_trainjobs_are_kept(custom: Submitted) -> None:
    manifest = job_of((*ON_GPUS, f"launch.kubernetes.kind={custom.kind}")).manifests[-1]
    assert list(lost(manifest, taken(custom.server, manifest))) == []
    wrong = deepcopy(manifest)
    spec = wrong["spec"]
    if custom.kind == "trainjob":
        spec["trainer"]["numNodes"] = "four"
    else:
        spec["replicatedJobs"][0]["template"]["spec"]["completions"] = "four"
    asked = ("create", "--dry-run=server", "--validate=false", "--filename=-")
    done = custom.server.kubectl(*asked, stdin=json.dumps(wrong), check=False)
    assert (done.returncode, "must be of type integer" in done.stderr) == (1, True), done.stderr


def needs_controllers(server: Server) -> None:
    if not server.controllers:
        pytest.skip("there is no kube-controller-manager beside this server: jobs get no pods")
