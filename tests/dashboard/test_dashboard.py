"""The W&B workspace of a project: over metrics that real runs write, saved to a stand-in for the server."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher.dashboard.panels import Dashboard, Line
from launcher.dashboard.questions import dashboard_of
from launcher.plan.plan_file import read_plan
from launcher.recipe.load import load_recipe
from launcher.rundir.layout import RunDirectory
from launcher.rundir.rows import logged_metrics
from tests.processes import ROOT, launcher
from tests.wandb_server import ENTITY, WandbServer
from tests.wandb_views import View

RECIPE = str(ROOT / "recipes/digits/recipe.yaml")
KEY = "0123456789" * 4
SECTIONS = [
    "Effective global batch",
    "Loss",
    "Communication saved",
    "Gradient noise scale",
    "Throughput and scaling",
    "Evaluation",
    "Learning rate and gradient norm",
    "Restarts",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A real run of two ranks, with all that it can measure."""
    runs = tmp_path_factory.mktemp("runs")
    keys = ["launch.nproc_per_node=2", "launch.device=cpu", "train.epochs=null", "train.updates=3"]
    done = launcher("run", RECIPE, *keys, "noise_scale.every=1", "--runs", str(runs), "--run-id", "r")
    assert done.returncode == 0, done.stderr
    return RunDirectory(runs / "r")


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as serving:
        yield serving


def online(server: WandbServer, home: Path) -> dict[str, str]:
    return {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "HOME": str(home)}


def panels_of(spec: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Section → the settings of its panels, from what the server was sent of a workspace."""
    sections = spec["section"]["panelBankConfig"]["sections"]
    return {section["name"]: [panel["config"] for panel in section["panels"]] for section in sections}


def metrics_in(settings: Mapping[str, Any]) -> set[str]:
    """The metrics that a panel needs, from what the server was sent of it."""
    ends = [settings.get(axis, "").removeprefix("summary:") for axis in ("xAxis", "yAxis")]
    formulas = [name for one in settings.get("expressions", []) for name in re.findall(r"\$\{([^}]+)\}", one)]
    return {name for name in (*ends, *settings.get("metrics", []), *formulas) if name and not name.startswith("_")}


def test_a_run_writes_every_metric_of_every_panel(run: RunDirectory) -> None:
    logged = logged_metrics(run.metrics)
    recipe = read_plan(run.plan).recipe
    assert dashboard_of(recipe).names <= logged
    assert dashboard_of(recipe, logged).names <= logged
    assert {"eval/accuracy", "eval/loss"} <= dashboard_of(recipe, logged).names


def test_what_is_saved_is_what_a_reduction_in_every_micro_step_would_send_besides(run: RunDirectory) -> None:
    plan = read_plan(run.plan)
    sections = {section.name: section.panels for section in dashboard_of(plan.recipe).sections}
    drawn = next(panel for panel in sections["Communication saved"] if isinstance(panel, Line) and panel.formulas)
    row = json.loads(run.metrics.read_text().splitlines()[0])
    once, each_step = (_value(formula, row) for formula in drawn.formulas)
    assert plan.reduction is not None
    assert (once, each_step) == (plan.reduction.bytes_per_update, plan.reduction.bytes_without_no_sync)
    assert each_step == 4 * once


def test_the_parts_of_the_batch_make_the_batch(run: RunDirectory) -> None:
    batch = next(section for section in dashboard_of(read_plan(run.plan).recipe).sections if "batch" in section.name)
    formulas = [formula for panel in batch.panels if isinstance(panel, Line) for formula in panel.formulas]
    row = json.loads(run.metrics.read_text().splitlines()[0])
    assert [_value(formula, row) for formula in formulas] == [32]


def _value(formula: str, row: Mapping[str, float]) -> float:
    value: float = eval(re.sub(r"\$\{([^}]+)\}", lambda found: str(row[found[1]]), formula))
    return value


def test_an_engine_that_reduces_in_every_micro_step_saves_nothing() -> None:
    for keys, saves in (
        (["parallel.engine=fsdp", "parallel.fsdp.defer_reduction=false"], False),
        (["parallel.engine=fsdp"], True),
        (["parallel.engine=deepspeed", "parallel.deepspeed.stage=1"], True),
        (["parallel.engine=deepspeed", "parallel.deepspeed.stage=2"], False),
    ):
        wanted = dashboard_of(load_recipe(Path(RECIPE), keys).recipe)
        formulas = [
            formula
            for section in wanted.sections
            if section.name == "Communication saved"
            for panel in section.panels
            if isinstance(panel, Line)
            for formula in panel.formulas
        ]
        assert bool(formulas) == saves, keys
        assert ("comm/allgather_bytes" in wanted.names) == ("parallel.engine=fsdp" in keys)


def test_tokens_and_several_losses_have_panels() -> None:
    recipe = load_recipe(ROOT / "recipes/multitask/recipe.yaml").recipe
    names = dashboard_of(recipe, {"train/tokens_seen", "throughput/tokens_per_sec"}).names
    assert {f"train/loss/{name}" for name in recipe.multitask.losses} <= names
    assert {"train/tokens_seen", "throughput/tokens_per_sec"} <= names
    assert "train/gradient_noise_scale" not in names  # which that run has not measured


def test_the_workspace_is_saved_with_its_panels(server: WandbServer, run: RunDirectory, tmp_path: Path) -> None:
    done = launcher("dashboard", str(run.path), env=online(server, tmp_path))
    assert done.returncode == 0, done.stderr
    (view,) = server.views.saved
    assert f"workspace: {server.url}/{ENTITY}/digits?nw={view.name[3:-2]}" in done.stdout
    assert (view.project, view.type, view.title) == ("digits", "project-view", "Effective batch and scaling of digits")
    saved = panels_of(view.spec)
    assert list(saved) == SECTIONS
    logged = logged_metrics(run.metrics)
    wanted = dashboard_of(read_plan(run.plan).recipe, logged)
    assert [len(panels) for panels in saved.values()] == [len(section.panels) for section in wanted.sections]
    named = {name for panels in saved.values() for settings in panels for name in metrics_in(settings)}
    assert named == wanted.names
    assert {settings["xAxis"] for settings in saved["Loss"]} == {
        "train/global_step", "train/samples_seen", "_runtime",
    }  # fmt: skip
    assert {settings["xAxis"] for settings in saved["Restarts"]} == {"_absolute_runtime"}
    assert ["train/gradient_noise_scale", "batch/global_samples"] in [
        settings["metrics"] for settings in saved["Gradient noise scale"]
    ]
    scatter = saved["Throughput and scaling"][0]
    assert (scatter["xAxis"], scatter["yAxis"]) == ("summary:batch/world_size", "summary:throughput/samples_per_sec")


def test_a_workspace_is_brought_up_to_date_and_keeps_what_its_users_chose(server: WandbServer, tmp_path: Path) -> None:
    first = launcher("dashboard", RECIPE, env=online(server, tmp_path))
    view = server.views.saved[0]
    view.spec["section"]["runSets"][0]["search"]["query"] = "mine"
    view.spec["section"]["panelBankConfig"]["sections"].pop()
    again = launcher("dashboard", RECIPE, env=online(server, tmp_path))
    assert again.stdout == first.stdout
    assert len(server.views.saved) == 1
    assert list(panels_of(view.spec)) == SECTIONS
    assert view.spec["section"]["runSets"][0]["search"]["query"] == "mine"


def test_a_report_has_the_panels_and_their_questions(server: WandbServer, tmp_path: Path) -> None:
    for _ in range(2):  # the second time it is brought up to date
        done = launcher("dashboard", RECIPE, "--report", env=online(server, tmp_path))
        assert done.returncode == 0, done.stderr
    workspace, report = server.views.saved
    assert f"report: {server.url}/{ENTITY}/digits/reports/Effective-batch-and-scaling-of-digits--{report.id}" in (
        done.stdout
    )
    assert report.type == "runs"
    assert report_metrics(report) == {
        name for panels in panels_of(workspace.spec).values() for settings in panels for name in metrics_in(settings)
    }
    text = json.dumps(report.spec)
    assert "Is the batch too large?" in text


def report_metrics(report: View) -> set[str]:
    grids = [block["metadata"] for block in report.spec["blocks"] if block["type"] == "panel-grid"]
    panels = [panel["config"] for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]
    return {name for settings in panels for name in metrics_in(settings)}


def test_a_dry_run_prints_what_is_sent_and_asks_nobody(server: WandbServer, tmp_path: Path) -> None:
    printed = launcher("dashboard", RECIPE, "--dry-run", env={"HOME": str(tmp_path), "WANDB_API_KEY": KEY})
    assert printed.returncode == 0, printed.stderr
    assert KEY not in printed.stdout
    launcher("dashboard", RECIPE, env=online(server, tmp_path))
    assert json.loads(printed.stdout) == server.views.saved[0].spec


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        ((RECIPE,), {}, "no key is configured. Run wandb login, or set WANDB_API_KEY"),
        ((RECIPE, "tracking.wandb.entity=other"), {"WANDB_API_KEY": KEY}, "of other/digits: input: permission denied"),
        ((RECIPE, "--report", "--dry-run"), {}, "--report: a report holds numbers of W&B's server. Leave out"),
        ((str(ROOT / "recipes/own_loop/recipe.yaml"),), {}, "script: what your own script logs is not known here"),
        ((str(ROOT / "docs"),), {}, "this is not the directory of a run: it has no plan.json"),
        ((RECIPE, "batch.micro=x"), {}, "batch.micro"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: tuple[str, ...], environment: dict[str, str], sentence: str, server: WandbServer, tmp_path: Path
) -> None:
    home = {"HOME": str(tmp_path), "WANDB_BASE_URL": server.url}
    done = launcher("dashboard", *arguments, env={**home, **environment})
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert server.views.saved == []


def test_a_run_of_a_script_is_refused_as_its_recipe_is(tmp_path: Path) -> None:
    keys = ["launch.nproc_per_node=1", "launch.device=cpu", "train.epochs=1"]
    runs = ["--runs", str(tmp_path), "--run-id", "r"]
    done = launcher("run", str(ROOT / "recipes/own_loop/recipe.yaml"), *keys, *runs)
    assert done.returncode == 0, done.stderr
    told = launcher("dashboard", str(tmp_path / "r"), "--dry-run")
    assert (told.returncode, told.stdout) == (2, "")
    assert f"{tmp_path / 'r'}: script: what your own script logs is not known here" in told.stderr


@pytest.mark.long  # W&B's own process tries for as long as it may
def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        env = {"HOME": str(tmp_path), "WANDB_BASE_URL": f"http://127.0.0.1:{free.getsockname()[1]}"}
        done = launcher("dashboard", RECIPE, env={**env, "WANDB_API_KEY": KEY})
    assert done.returncode == 2
    assert "W&B's server cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_package_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "wandb_workspaces.py").write_text("raise ImportError")
    done = launcher("dashboard", RECIPE, "--dry-run", env={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    assert done.returncode == 2
    assert done.stderr.strip().endswith("Run pip install 'launcher[dashboard]'.")


def test_a_dashboard_travels_as_json() -> None:
    wanted = dashboard_of(load_recipe(Path(RECIPE)).recipe)
    assert Dashboard.model_validate_json(wanted.model_dump_json()) == wanted
