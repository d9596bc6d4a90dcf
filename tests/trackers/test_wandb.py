"""W&B runs in processes of their own: it keeps much in the process, and its last words come when that ends."""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher.plan.planner import Plan, make_plan
from launcher.plan.topology import Topology
from launcher.recipe.schema import Recipe
from launcher.rundir.layout import RunDirectory
from launcher.trackers import wandb as wandb_tracker
from launcher.trackers.jsonl import JsonlTracker
from launcher.trackers.wandb import Choice, choose_mode, make_wandb_tracker
from launcher.trackers.wandb_id import new_wandb_id
from launcher.trackers.wandb_session import Patience
from tests.faults.table import Kind
from tests.wandb_files import LoggedRun, read_offline_run
from tests.wandb_server import WandbServer

ROOT = Path(__file__).parents[2]
RUN = "digits 20260101-1200"  # a space, so that the id differs from the name and the commands have to quote
KEY = "0123456789" * 4
SECONDS_TO_FALL_BACK = 20  # from the start of the process to its end; a dead server costs about half of it


def row(update: int, loss: float, /, **evaluation: float) -> dict[str, float]:
    """A row with every name of the contract."""
    return {
        "train/global_step": update,
        "train/loss": loss,
        "train/loss/digit": loss,
        "train/learning_rate": 3e-3 / update,
        "train/grad_norm": 0.25 * update,
        "train/epoch": update / 7,
        "train/samples_seen": 256 * update,
        "train/tokens_seen": 4096 * update,
        "batch/global_samples": 256,
        "batch/global_items": 256,
        "batch/micro_steps": 3,
        "batch/world_size": 3,
        "comm/allreduce_calls": 1,
        "comm/allreduce_bytes": 40360,
        "throughput/samples_per_sec": 1234.5,
        "throughput/tokens_per_sec": 19752.0,
        "time/update": 0.207,
        "time/data": 0.001,
        "memory/peak_bytes": 2**31,
        **{f"eval/{name}": value for name, value in evaluation.items()},
    }


ROWS = [
    row(1, 2.5),
    row(2, 1.0, loss=0.5, accuracy=0.75),
    row(3, math.inf) | {"train/grad_norm": math.nan},
    row(4, 1.5, loss=0.625, accuracy=0.5),
]
# metrics.jsonl has no infinity.
UPLOADED = [{key: value if math.isfinite(value) else math.nan for key, value in values.items()} for values in ROWS]


def make(mode: str) -> Plan:
    tracking = {"wandb": {"project": "numbers", "group": "sweep", "tags": ["a", "b"], "mode": mode}}
    batch = {"global": 256, "micro": 32}
    recipe = {
        "name": "digits",
        "batch": batch,
        "multitask": {"losses": {"class": 1.0, "parity": 0.5}},  # W&B drops a mapping that is empty
        "train": {"updates": 4},
        "tracking": tracking,
    }
    return make_plan(Recipe.model_validate(recipe), Topology(nodes=1, nproc_per_node=3, device="cpu"))


def train(run_dir: str, mode: str, rows: list[dict[str, float]], **job: Any) -> None:
    """What a worker does with its tracker, in a process of its own; what the tracker says goes to stdout."""
    run, plan = RunDirectory(Path(run_dir)), make(mode)
    wandb_tracker.WHILE_TRAINING = Patience(finish=job.get("finish_seconds", 20))
    run.plan.write_text(plan.model_dump_json())
    metrics = JsonlTracker(run.metrics, print)
    tracker = make_wandb_tracker(plan, run.path, lambda sentence: print(sentence, flush=True))
    if tracker is None:
        print("no tracker")
        return
    for number, values in enumerate(rows):
        if number == job.get("kill_before_row"):
            kill_wandb()
        metrics.log(values)
        tracker.log(values)
    tracker.finish(job.get("succeeded", True))


def kill_wandb() -> None:
    """Kill W&B's own process, a child of this one."""
    children = ["pgrep", "-P", str(os.getpid()), "wandb-core"]
    os.kill(int(subprocess.run(children, capture_output=True, check=True).stdout), signal.SIGKILL)


class Bench:
    """Trains in processes that see no W&B settings but those given here."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = folder / RUN
        self.run_dir.mkdir()
        self.home = folder / "home"
        self.home.mkdir()

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        hidden = ("WANDB_", "NETRC", "XDG_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        return {**kept, "HOME": str(self.home), **variables}

    def command(self, mode: str, rows: list[dict[str, float]], **job: Any) -> list[str]:
        job |= {"run_dir": str(self.run_dir), "mode": mode, "rows": rows}
        return [sys.executable, "-m", "tests.trackers.test_wandb", json.dumps(job)]

    def train(
        self, mode: str, rows: list[dict[str, float]] | None = None, *, env: Mapping[str, str], **job: Any
    ) -> list[str]:
        """Train to the end; returns the lines on the console, all of which are the tracker's."""
        done = subprocess.run(
            self.command(mode, ROWS if rows is None else rows, **job),
            cwd=ROOT,
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    def sync_command(self, sentence: str) -> list[str]:
        """The command that a sentence ends with."""
        tool, *arguments = shlex.split(sentence[sentence.index("launcher sync") :])
        return [sys.executable, "-m", tool, *arguments]

    def sync(self, sentence: str, server: WandbServer) -> LoggedRun:
        """Run the command that a sentence ends with; returns what the server has then."""
        env = self.environment({"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY})
        command = self.sync_command(sentence)
        subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, timeout=120)
        (run,) = server.runs.values()
        return run


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as started:
        yield started


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, list[str]]:
    """A run that failed, offline because no key is there, and what it said."""
    bench = Bench(tmp_path_factory.mktemp("offline"))
    return bench, bench.train("auto", env={}, succeeded=False)


def assert_same(rows: list[dict[str, Any]], expected: list[dict[str, float]]) -> None:
    """The same numbers, nan and infinity among them, by the same names."""
    assert rows == [pytest.approx(values, rel=0, abs=0, nan_ok=True) for values in expected]


def without_empty(config: dict[str, Any]) -> dict[str, Any]:
    """A mapping without those in it that are empty."""
    inner = {key: without_empty(value) if isinstance(value, dict) else value for key, value in config.items()}
    return {key: value for key, value in inner.items() if value != {}}


def assert_whole(run: LoggedRun, mode: str, rows: list[dict[str, float]] = ROWS) -> None:
    """W&B has everything that the contract promises."""
    assert run.id.startswith("digits-20260101-1200-")
    assert (run.name, run.project) == (RUN, "numbers")
    assert (run.group, run.tags) == ("sweep", ("a", "b"))
    config = {key: value for key, value in run.config.items() if key != "_wandb"}
    recipe = make(mode).recipe.model_dump(by_alias=True, mode="json") | {"batch": config["batch"]}
    assert without_empty(config) == without_empty(recipe)  # W&B itself drops mappings that are empty
    assert config["batch"] == {
        "global": 256,
        "micro": 32,
        "accumulation": 3,
        "world": 3,
        "tail": "keep",
        "schedule": [],
        "on_out_of_memory": None,
    }
    assert_same(run.rows(), rows)
    assert run.x_axes["*"] == "train/global_step"
    assert run.summary["train/loss"] == {"min": 1.0, "last": 1.5}
    assert run.summary["eval/loss"] == {"min": 0.5, "last": 0.625}
    assert run.summary["eval/accuracy"] == {"max": 0.75, "last": 0.5}
    assert run.summary["train/samples_seen"] == 1024
    assert set(run.x_axes.values()) == {"train/global_step"}


def test_an_offline_run_has_everything_in_its_files(offline: tuple[Bench, list[str]]) -> None:
    bench, _ = offline
    run = read_offline_run(bench.run_dir)
    assert_whole(run, "auto")
    assert run.exit_code == 1


def test_an_offline_run_says_why_and_how_to_upload_it(offline: tuple[Bench, list[str]]) -> None:
    bench, said = offline
    assert said[0] == "W&B: offline, because no key is configured."
    assert said[1].startswith("W&B: to upload the run later: launcher sync ")
    assert len(said) == 2
    assert Path(bench.sync_command(said[1])[-1]).is_dir()


def test_an_offline_run_can_be_uploaded_as_it_says(offline: tuple[Bench, list[str]], server: WandbServer) -> None:
    bench, said = offline
    run = bench.sync(said[1], server)
    assert_whole(run, "auto", UPLOADED)
    assert run.exit_code == 1


@pytest.mark.fault(
    Kind.SECRET,
    "W&B's key",
    by="in the environment of an online run",
    outcome="in no file of the run",
)
def test_an_online_run_has_everything_on_the_server_and_the_key_in_no_file(bench: Bench, server: WandbServer) -> None:
    said = bench.train("auto", env={"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY})
    (run,) = server.runs.values()
    assert_whole(run, "auto")
    assert run.exit_code == 0
    page = f"{server.url}/{run.entity}/numbers/runs/{run.id}"
    assert said == [
        f"W&B: online at {page}, because a key is configured.",
        f"W&B: the run is at {page}",
    ]
    files = [path for path in bench.run_dir.parent.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_runs_of_one_name_do_not_overwrite_each_other(bench: Bench, server: WandbServer, tmp_path: Path) -> None:
    env = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
    (tmp_path / "elsewhere").mkdir()
    bench.train("online", ROWS[:3], env=env, succeeded=False)
    Bench(tmp_path / "elsewhere").train("online", ROWS, env=env)
    first, second = server.runs.values()
    assert first.name == second.name == RUN
    assert_same(first.rows(), ROWS[:3])
    assert_same(second.rows(), ROWS)


@pytest.mark.parametrize(
    ("wanted", "ambient", "problem", "choice"),
    [
        ("auto", "online", None, Choice("online", "a key is configured")),
        ("auto", "online", "no key is configured", Choice("offline", "no key is configured")),
        ("auto", "offline", None, Choice("offline", "your W&B settings say so")),
        ("auto", "dryrun", None, Choice("offline", "your W&B settings say so")),
        ("auto", "disabled", None, Choice("disabled", "your W&B settings say so")),
        ("online", "online", None, Choice("online", "the recipe says so")),
        ("online", "offline", None, Choice("online", "the recipe says so")),
        ("online", "disabled", None, Choice("online", "the recipe says so")),
        ("online", "online", "no key", Choice("offline", "no key, though the recipe says online")),
        ("offline", "online", None, Choice("offline", "the recipe says so")),
        ("offline", "disabled", None, Choice("offline", "the recipe says so")),
    ],
)
def test_the_mode_follows_the_recipe_then_the_settings_then_the_key(
    wanted: str, ambient: str, problem: str | None, choice: Choice
) -> None:
    assert choose_mode(wanted, ambient, lambda: problem) == choice


def test_a_key_in_netrc_counts_for_its_own_host_only(bench: Bench, server: WandbServer) -> None:
    netrc = bench.home / ".netrc"
    netrc.write_text(f"machine api.wandb.ai login user password {KEY}\n")
    assert bench.train("auto", env={"WANDB_BASE_URL": server.url})[0] == ("W&B: offline, because no key is configured.")
    host = server.url.removeprefix("http://")
    netrc.write_text(f"machine {host} login user password {KEY}\n")
    assert bench.train("auto", env={"WANDB_BASE_URL": server.url})[0].startswith("W&B: online at ")


def test_wandb_mode_wins_over_auto_only(bench: Bench, server: WandbServer) -> None:
    env = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}
    assert bench.train("auto", env=env) == ["W&B: disabled, because your W&B settings say so.", "no tracker"]
    assert bench.train("online", env=env)[0].startswith("W&B: online at ")


@pytest.mark.fault(
    Kind.TRACKING,
    "a bad W&B key",
    by="too short",
    outcome="named; the run goes offline",
)
def test_a_bad_key_is_named_and_the_run_goes_offline(bench: Bench, server: WandbServer) -> None:
    said = bench.train("auto", env={"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "short"})
    assert said[0].startswith("W&B: offline, because the key cannot be used: ")
    assert_same(read_offline_run(bench.run_dir).rows(), ROWS)


def test_online_without_a_key_does_not_ask_for_one(bench: Bench) -> None:
    """At a terminal, where W&B could ask: a question would wait for an answer until the timeout."""
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        subprocess.run(
            bench.command("online", ROWS),
            cwd=ROOT,
            env=bench.environment({}),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            check=True,
            timeout=60,
        )
        shown = screen.read(10_000).decode().splitlines()
    os.close(theirs)
    assert shown[0] == "W&B: offline, because no key is configured, though the recipe says online."
    assert shown[1].startswith("W&B: to upload the run later: ")
    assert len(shown) == 2


@pytest.mark.fault(
    Kind.TRACKING,
    "W&B's server is not there",
    by="nobody listens; a listener that never answers",
    outcome="the run goes offline within seconds, says so, and has all of it in its files",
)
@pytest.mark.parametrize("listens", [False, True], ids=["refuses", "never answers"])
def test_without_its_server_a_run_goes_offline_within_seconds(bench: Bench, listens: bool) -> None:
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        if listens:
            port.listen()
        url = f"http://127.0.0.1:{port.getsockname()[1]}"
        began = time.monotonic()
        said = bench.train("auto", env={"WANDB_BASE_URL": url, "WANDB_API_KEY": KEY})
        assert time.monotonic() - began < SECONDS_TO_FALL_BACK
    assert said[0].startswith("W&B: offline, because the server could not be used: ")
    assert url in said[0]
    assert said[1].startswith("W&B: to upload the run later: ")
    assert len(said) == 2
    run = read_offline_run(bench.run_dir)
    assert_whole(run, "auto")
    assert run.exit_code == 0


@pytest.mark.fault(
    Kind.TRACKING,
    "W&B's server never answers at the end of an offline run",
    by="a listener",
    outcome="not asked, not waited for",
)
def test_an_offline_run_does_not_wait_for_a_server_at_its_end(bench: Bench) -> None:
    """W&B reports its use when the process ends, and waits for a server that does not answer."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        port.listen()
        bench.train("offline", env={"WANDB_BASE_URL": f"http://127.0.0.1:{port.getsockname()[1]}"})
        port.setblocking(False)
        with pytest.raises(BlockingIOError):
            port.accept()


@pytest.mark.fault(
    Kind.TRACKING,
    "W&B's process dies",
    by="SIGKILL of wandb-core between two rows",
    outcome="said once; the training goes on",
)
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_training_goes_on_when_wandb_dies(bench: Bench, server: WandbServer, mode: str) -> None:
    env = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
    said = bench.train(mode, ROWS * 3, env=env, kill_before_row=2)
    assert said[0].startswith(f"W&B: {mode}")
    assert said[1].startswith("W&B: stopped, because ")
    assert len(said) == 2
    assert Path(bench.sync_command(said[1])[-1]).is_dir()


@pytest.mark.fault(
    Kind.TRACKING,
    "W&B's server answers rows with errors",
    by="HTTP 500",
    outcome="said once; the run ends in time; `launcher sync` uploads what is missing",
)
def test_training_ends_when_the_server_takes_no_rows(bench: Bench) -> None:
    with WandbServer(takes_rows=False) as server:
        env = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        said = bench.train("online", env=env, finish_seconds=1)
    assert said[1].startswith("W&B: stopped, because ")
    assert len(said) == 2
    with WandbServer() as server:
        assert_whole(bench.sync(said[1], server), "online", UPLOADED)


@pytest.mark.fault(
    Kind.TRACKING,
    "W&B cannot start",
    by="a wrong setting",
    outcome="said; the training goes on",
)
def test_training_goes_on_when_wandb_cannot_start(bench: Bench) -> None:
    said = bench.train("auto", env={"WANDB_MODE": "sideways"})
    assert said[0].startswith("W&B: not used, because it could not start: ")
    assert "sideways" in said[0]
    assert said[1:] == ["no tracker"]


def test_a_disabled_tracker_does_not_import_wandb(bench: Bench) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.trackers.test_wandb import make, make_wandb_tracker;"
        "print(make_wandb_tracker(make('disabled'), Path('.'), print), 'wandb' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=bench.environment({}), capture_output=True, text=True)
    assert done.stdout == "None False\n"


def test_an_id_is_what_wandb_takes() -> None:
    assert new_wandb_id("digits-20260101.1_a").startswith("digits-20260101.1_a-")
    assert new_wandb_id("a:b/c é#?").startswith("a-b-c-----")
    long = [new_wandb_id("x" * 80) for _ in range(2)]
    assert [len(name) for name in long] == [64, 64]
    assert long[0] != long[1]


if __name__ == "__main__":
    train(**json.loads(sys.argv[1]))
