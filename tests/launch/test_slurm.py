"""Jobs for Slurm, as far as no Slurm is needed: what is rendered, what is refused, when a job is queued again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from launcher.errors import RequestError
from launcher.recipe.load import load_recipe
from launcher.rundir.layout import RunDirectory
from launcher.runners.place import Place, slurm_place
from launcher.runners.slurm import Job
from launcher.runners.supervise import Signals
from tests.processes import ROOT, clean_environment, launcher, wait_until
from tests.recipes.golden import ARRAY, GOLDEN, JOBS, array_text, job_of, job_text, script_of

DIGITS = ROOT / "recipes" / "digits" / "recipe.yaml"
MORTAL = ROOT / "tests" / "tasks" / "mortal.yaml"


@pytest.mark.parametrize("name", [*JOBS, ARRAY])
def test_scripts_of_jobs(name: str) -> None:
    """If it changed on purpose: python -m tests.recipes.golden, and read the difference before you commit it."""
    text = array_text() if name == ARRAY else job_text(name)
    assert text == (GOLDEN / name).read_text()
    script = text.rpartition("\n$ ")[0]
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False, capture_output=True).stderr == ""


def test_the_job_runs_what_was_planned(tmp_path: Path) -> None:
    """Its recipe names ranks and device: a machine with less refuses it, and does not train something else."""
    job = job_of(DIGITS, ["launch.nodes=3", "launch.slurm.gpus_per_node=2", "batch.global=300"], tmp_path / "it")
    (tmp_path / "recipe.yaml").write_text(job.files[tmp_path / "it" / "slurm" / "recipe.yaml"])
    recipe = load_recipe(tmp_path / "recipe.yaml").recipe
    assert (recipe.launch.nodes, recipe.launch.nproc_per_node, recipe.launch.device) == (3, 2, "cuda")
    assert recipe.batch.global_ == 300
    assert job.argv == ("sbatch", "--parsable", str(tmp_path / "it" / "slurm" / "job.sh"))


def test_no_name_of_a_file_changes_what_the_script_says(tmp_path: Path) -> None:
    run = tmp_path / "a b" / "100%"
    script = script_of(job_of(MORTAL, ["launch.nodes=2"], run))
    assert f'#SBATCH --output="{tmp_path}/a b/100%%/slurm/output.log"' in script
    assert f"ls -d '{run}/checkpoints'/step_*" in script
    assert f"--runs '{tmp_path}/a b' --run-id 100% --resume auto &" in script


def test_the_file_that_is_named_is_the_one_that_runs_here(tmp_path: Path) -> None:
    """What is before a ".." may be a link; containers have the folders that the job names."""
    common, code, link = tmp_path / "real" / "common", tmp_path / "real" / "recipes", tmp_path / "link"
    for folder in (common, code):
        folder.mkdir(parents=True)
    link.symlink_to(code)
    (common / "task.py").write_text((ROOT / "tests" / "tasks" / "mortal.py").read_text())
    (code / "own.yaml").write_text("mixed_precision: 'no'\n")
    recipe = link / "it.yaml"
    text = MORTAL.read_text().replace("entry: mortal.py:", "entry: ../common/task.py:")
    recipe.write_text(f"{text}\n")
    more = ("launch.method=accelerate", "launch.nodes=1", "launch.accelerate.config_file=own.yaml")
    image = ("launch.slurm.container=image", "--runs", f"{link}/../runs", "--dry-run")
    shown = launcher("submit", str(recipe), *more, *image, cwd=link)
    assert shown.returncode == 0, shown.stderr
    assert f"entry: {common}/task.py:" in shown.stdout
    assert f"config_file: {link}/own.yaml" in shown.stdout
    mounts = ",".join(f"{folder}:{folder}" for folder in (tmp_path / "real" / "runs", common, link))
    assert f"--container-mounts={mounts} " in shown.stdout
    assert ".." not in shown.stdout


@pytest.mark.parametrize(
    ("gres", "counted"), [("gpu:a100:4", 4), ("gpu:h100_80g:2,gpu:t4:2,nvme:1", 4), ("gpu:t4", 1), ("nvme:1", None)]
)
def test_gpus_of_a_kind(gres: str, counted: int | None) -> None:
    """Either says how many: of two options Slurm would take one. "0" is all memory of a machine."""
    more = (f"launch.slurm.options={{gres: '{gres}'}}", "launch.slurm.memory=0", "launch.device=cuda")
    script = script_of(job_of(MORTAL, [f"launch.slurm.gpus_per_node={counted or 4}", "launch.nproc_per_node=1", *more]))
    assert (f"#SBATCH --gres={gres}\n" in script, "--gpus-per-node=4" in script) == (True, counted is None)
    assert "#SBATCH --mem=0\n" in script


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "elastic": (
        ("launch.nodes=1:4",),
        "launch.nodes: a job of Slurm has a fixed number of machines, not 1:4. Set launch.nodes=4.",
    ),
    "ray": (
        ("launch.nodes=2", "launch.method=ray"),
        "launch.method: ray places ranks on the machines of its own cluster, and a job of Slurm starts those of each "
        "machine. Set launch.method=torchrun.",
    ),
    "auto": (
        ("launch.device=auto", "launch.nproc_per_node=auto"),
        "launch.nproc_per_node: auto is one rank for each GPU, and how many GPUs the machines have cannot be seen "
        "from here. Set launch.slurm.gpus_per_node, or launch.device=cpu.",
    ),
    "gpus for a cpu": (
        ("launch.slurm.gpus_per_node=2",),
        "launch.slurm.gpus_per_node: launch.device=cpu trains without GPUs. Delete it, or set launch.device.",
    ),
    "no gpus": (
        ("launch.device=cuda", "launch.slurm.gpus_per_node=0"),
        "launch.slurm.gpus_per_node: launch.device=cuda needs GPUs. Say how many a machine has.",
    ),
    "too few gpus": (
        ("launch.device=cuda", "launch.nproc_per_node=4", "launch.slurm.gpus_per_node=2"),
        "launch.slurm.gpus_per_node: 4 ranks (launch.nproc_per_node) need as many GPUs, not 2. "
        "Set launch.slurm.gpus_per_node=4.",
    ),
    "too short": (
        ("launch.slurm.time=0:04:00",),
        "launch.slurm.time: 0:04:00 is too short: the run is told to end 180 seconds before "
        "(launch.slurm.signal_before), up to 60 early, and would hardly begin. "
        "Give it more than 240 seconds, or a smaller launch.slurm.signal_before.",
    ),
    "too late": (
        ("launch.slurm.signal_before=30",),
        "launch.slurm.signal_before: 30 seconds are less than launch.grace, the 60 that a run may take to save. "
        "Write 61 or more, or less for launch.grace.",
    ),
    "no time": (
        ("launch.slurm.time=90",),
        'launch.slurm.time: must be hours, minutes and seconds, such as "4:00:00", or "2-00:00:00" for two days, '
        "not '90'.",
    ),
    "unknown": (
        ("launch.slurm.qos=high",),
        "launch.slurm.qos: unknown key. Did you mean launch.slurm.options.qos?",
    ),
    "an option of its own": (
        ("launch.slurm.options={nodes: 3}",),
        "launch.slurm.options.nodes: the launcher writes this option itself. Set launch.nodes.",
    ),
    "an option that it cannot do with": (
        ("launch.slurm.options={no-requeue: true}",),
        "launch.slurm.options.no-requeue: the launcher writes this option itself, or cannot do with it. Delete it.",
    ),
    "two numbers of gpus": (
        ("launch.device=cuda", "launch.slurm.gpus_per_node=2", "launch.slurm.options={gres: 'gpu:a100:4'}"),
        "launch.slurm.options.gres: asks for 4 of a machine's GPUs, and launch.slurm.gpus_per_node is 2. "
        "Set launch.slurm.gpus_per_node=4.",
    ),
    "no memory": (
        ("launch.slurm.memory=64",),
        'launch.slurm.memory: must be a whole number and K, M, G or T, such as 64G, or "0" for all that a machine has, '
        "not '64'.",
    ),
    "another line": (
        ('launch.slurm.options={comment: "a # b"}',),
        "launch.slurm.options.comment: 'a # b' has quotes, backslashes, # or line breaks, which sbatch reads in its "
        "own way. Do without them.",
    ),
    "no option": (
        ("launch.slurm.options={--qos: high}",),
        "launch.slurm.options.--qos: is no long name of an option of sbatch. "
        "Write for example qos, without dashes before.",
    ),
    "a secret": (
        ("launch.slurm.options={export: 'ALL,MY_API_KEY=hunter22'}",),
        "launch.slurm.options.export: MY_API_KEY is a secret, and the script is shown and kept. "
        "Set MY_API_KEY in the environment that you submit from: a job has it too.",
    ),
    "mounts in nothing": (
        ("launch.slurm.mounts=[/data]",),
        "launch.slurm.mounts: there is no container to mount anything in. Set launch.slurm.container.",
    ),
    "no folder": (
        ("launch.slurm.container=image", 'launch.slurm.mounts=["/a,/b"]'),
        "launch.slurm.mounts: '/a,/b' is no folder to mount. Write /folder or /folder:/in/container.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_recipe_that_cannot_run_there_is_refused(name: str, tmp_path: Path) -> None:
    overrides, said = REFUSED[name]
    done = launcher("submit", str(MORTAL), *overrides, "--runs", str(tmp_path / "runs"), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr.replace("command line: ", "").replace(f"{MORTAL}:10: ", "")
    assert not (tmp_path / "runs").exists()


def test_runs_that_need_other_machines_are_refused(tmp_path: Path) -> None:
    done = launcher("sweep", str(MORTAL), "launch.nodes=1,2", "--to", "slurm", "--runs", str(tmp_path / "runs"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "launcher: --to slurm: an array asks for the same in each of its tasks, and here it would be "
        "--nodes=1 --nodes=1 --ntasks=1 and --nodes=2 --nodes=2 --ntasks=2. "
        "Make a sweep for each, with a --sweep-id of its own.\n"
    )


def test_an_array_of_runs_that_cannot_run_there_is_refused(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    done = launcher("sweep", str(MORTAL), "launch.nodes=1,1:4", "--to", "slurm", "--runs", str(runs))
    assert (done.returncode, done.stdout, runs.exists()) == (2, "", False)
    assert "launch.nodes: a job of Slurm has a fixed number of machines, not 1:4. Set launch.nodes=4." in done.stderr


def test_the_file_and_the_line_are_named(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"extends: {MORTAL}\nlaunch:\n  nodes: 1:4\n")
    done = launcher("submit", str(recipe), "--runs", str(tmp_path))
    assert done.stderr.startswith(f"launcher: {recipe}:3: launch.nodes: a job of Slurm has a fixed number of machines")


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize("command", [("submit", "--to", "slurm"), ("run",)])
def test_an_empty_name_is_none(command: tuple[str, ...], dry: tuple[str, ...], tmp_path: Path) -> None:
    done = launcher(*command, str(MORTAL), "--run-id", "", "--runs", str(tmp_path / "runs"), *dry)
    assert (done.returncode, done.stdout, (tmp_path / "runs").exists()) == (2, "", False)
    assert done.stderr.startswith("launcher: --run-id '': use up to 128 letters, digits")


def test_a_folder_that_a_script_cannot_hold_is_refused(tmp_path: Path) -> None:
    done = launcher("submit", str(MORTAL), "--runs", str(tmp_path / 'a"b'))
    assert done.returncode == 2
    assert "has quotes, backslashes or #, which sbatch reads in its own way" in done.stderr


@pytest.mark.parametrize("command", ["submit", "status", "logs", "cancel"])
def test_without_slurm_one_sentence_says_so(command: str, tmp_path: Path) -> None:
    (tmp_path / "it" / "slurm").mkdir(parents=True)
    (tmp_path / "it" / "slurm" / "job_id").write_text("12\n")
    arguments = [str(MORTAL), "--run-id", "new"] if command == "submit" else ["12"] + ["-f"] * (command == "logs")
    done = launcher(command, *arguments, "--runs", str(tmp_path), env={"PATH": str(tmp_path)})
    program = "sbatch" if command == "submit" else "squeue"
    assert done.returncode == 2
    sentence = f"Slurm is not installed here: there is no {program}. Use a machine of the cluster."
    if command == "status":  # the others of its list are shown all the same
        assert done.stdout.splitlines()[-1] == f"job: 12, Slurm does not answer: {sentence}"
    else:
        assert done.stderr == f"launcher: {sentence}\n"
    assert not (tmp_path / "new").exists()


def test_a_dry_run_refuses_what_the_submission_refuses(tmp_path: Path) -> None:
    one = (str(MORTAL), "train.updates=2", "launch.nproc_per_node=1", "launch.device=cpu", "--run-id", "it")
    here = ("--runs", str(tmp_path))
    assert launcher("run", *one, *here).returncode == 0
    wanted = {
        (): (2, "", "holds a run already"),
        ("--resume", "auto"): (0, "done: ", ""),
        ("--resume", "auto", "optimizer.lr=0.5"): (2, "", "optimizer.lr: the run was begun with"),
    }
    for more, (code, printed, said) in wanted.items():
        for dry in (["--dry-run"], []):
            done = launcher("submit", *one, "--to", "slurm", *here, *more, *dry)
            assert (done.returncode, said in done.stderr) == (code, True), done.stderr
            assert done.stdout.removeprefix("# ").startswith(printed)
            assert "sbatch" not in done.stdout
    assert not (tmp_path / "it" / "slurm").exists()


def test_a_run_that_nobody_knows(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.yaml").touch()
    (tmp_path / "folder").mkdir()
    unknown = ("12", "was submitted as job 12"), ("yours", "is called yours"), ("folder", "is called folder")
    for name, said in (*unknown, ("mine", "was not submitted")):
        done = launcher("cancel", name, "--runs", str(tmp_path))
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr


# What stands for srun and scontrol where the script itself is tested: real ones are in tests/slurm.
SRUN = """#!/bin/bash
echo started >> "$TOLD"
trap 'echo warned >> "$TOLD"; warned=1' USR1
until [ -n "$warned" ] || [ -e "$GO" ]; do sleep 0.02; done
[ -z "$SAVES" ] || mkdir -p "$SAVES"
exit "$CODE"
"""
SCONTROL = '#!/bin/bash\necho "$@" >> "$TOLD"\n'


def end_of_script(
    folder: Path, *, code: int, warned: bool, saves: str = "", sent: Sequence[int] = ()
) -> tuple[int, list[str]]:
    """The exit code of the script of a job whose ranks end so, and what it told them and Slurm."""
    run, programs = folder / "it", folder / "programs"
    (run / "checkpoints" / "step_00000004").mkdir(parents=True)
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    script, told, go = folder / "job.sh", folder / "told", folder / "go"
    script.write_text(script_of(job_of(MORTAL, ["launch.nodes=2"], run)))
    env = {"PATH": f"{programs}:{os.environ['PATH']}", "TOLD": str(told), "GO": str(go), "CODE": str(code)}
    saved = str(run / "checkpoints" / saves) if saves else ""
    with subprocess.Popen(
        ["bash", str(script)],
        env=clean_environment(**env, SAVES=saved, SLURM_JOB_ID="12"),
        start_new_session=True,
    ) as process:
        wait_until(lambda: told.exists() and bool(told.read_text()))
        for number in sent:
            os.killpg(process.pid, number)  # as Slurm does where it knows no better
        if warned:
            process.send_signal(signal.SIGUSR1)
        else:
            go.touch()
        ended = process.wait(timeout=30)
    return ended, told.read_text().splitlines()


@pytest.mark.parametrize("code", [0, 2, 3, 65, 73, 75, 130])
def test_a_job_is_queued_again_after_a_checkpoint_and_only_then(code: int, tmp_path: Path) -> None:
    ended, told = end_of_script(tmp_path, code=code, warned=True, saves="step_00000008")
    assert (ended, told) == (code, ["started", "warned", *(["requeue 12"] if code == 75 else [])])


def test_a_job_that_got_no_further_is_not_queued_again(tmp_path: Path) -> None:
    """It would go round and round."""
    assert end_of_script(tmp_path, code=75, warned=True) == (75, ["started", "warned"])


def test_a_run_that_others_have_stopped_is_not_queued_again(tmp_path: Path) -> None:
    assert end_of_script(tmp_path, code=75, warned=False, saves="step_00000008") == (75, ["started"])


def test_what_is_sent_to_the_group_of_the_script_does_not_reach_srun(tmp_path: Path) -> None:
    """It would kill the ranks on SIGTERM, which Slurm tells by itself."""
    ended = end_of_script(tmp_path, code=0, warned=False, sent=[signal.SIGTERM])
    assert ended == (0, ["started"])


STEP = {"SLURM_STEP_ID": "0", "SLURM_NODEID": "1", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2"}


def test_the_place_of_a_machine_in_a_step() -> None:
    assert slurm_place({**STEP, "SLURM_JOB_ID": "12"}) == Place(rank=1, nodes=2, launch="12.0.0")
    assert slurm_place({**STEP, "SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "3"}) == Place(1, 2, "12.3.0")
    assert slurm_place({"SLURM_JOB_ID": "12", "SLURM_NODEID": "0"}) is None  # the script of a job: no step
    with pytest.raises(RequestError, match=r"has started 4 launchers on 2 of its nodes.*Use --ntasks-per-node=1"):
        slurm_place({**STEP, "SLURM_STEP_NUM_TASKS": "4"})


@pytest.mark.parametrize("name", ["SLURM_NODEID", "SLURM_STEP_NUM_NODES", "SLURM_STEP_NUM_TASKS"])
def test_a_variable_of_slurm_that_is_no_number(name: str, tmp_path: Path) -> None:
    done = launcher("run", str(MORTAL), "--runs", str(tmp_path), env={**STEP, name: "abc"})
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    said = f"launcher: {name}: is 'abc', and Slurm sets a number. Unset SLURM_STEP_ID, or use srun.\n"
    assert done.stderr == said


def test_a_step_of_another_number_of_machines_is_refused(tmp_path: Path) -> None:
    done = launcher("run", str(MORTAL), "launch.nodes=3", "--runs", str(tmp_path), "--run-id", "it", env=STEP)
    assert done.returncode == 2
    assert "launch.nodes: is 3, and srun has started 2 launchers. Set launch.nodes=2, or start as many." in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_all_machines_must_mean_the_same_run(tmp_path: Path) -> None:
    done = launcher("run", str(MORTAL), "launch.nodes=2", "--runs", str(tmp_path), env=STEP)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert done.stderr == "launcher: --run-id: is missing: all machines must mean the same run. Choose one.\n"


def test_a_batch_system_may_say_it_twice() -> None:
    """At the end of the time it warns, and warns again before it kills; Ctrl-C is from someone who cannot wait."""
    patient, other = Signals(patient=True), Signals()
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        patient(number, None)
        other(number, None)
    assert patient.received == [signal.SIGUSR1, signal.SIGINT]
    assert len(other.received) == 4


def test_a_job_is_known_by_what_sbatch_has_answered(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert Job.of(run) is None
    run.slurm.mkdir()
    for answer, job in (
        ("12\n", Job("12")),
        ("12;west\n", Job("12", "west")),
        ("12_3\n", Job("12_3")),
        ("", None),
        ("oops", None),
        ("12_\n", None),
    ):
        run.slurm_job.write_text(answer)
        assert Job.of(run) == job
