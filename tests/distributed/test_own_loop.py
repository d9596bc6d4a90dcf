"""The Accumulator in loops of the user's own: rules 1 to 7 and 9, on real ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from launcher.launch.accelerate import accelerate_config
from launcher.plan.planner import make_plan
from launcher.plan.topology import Topology
from launcher.recipe.schema import Recipe
from tests.distributed.own_loop import CASES, MICRO_STEPS, Case, World, measure_all
from tests.faults.table import Kind
from tests.processes import clean_environment, torchrun

WORLDS = (1, 2, 3)
Measured = dict[str, list[dict[str, Any]]]
ALL = [pytest.param(world, case, id=f"{world}-{case.name}") for world in WORLDS for case in CASES]
REDUCED = [pytest.param(world, case, id=f"{world}-{case.name}") for world in (2, 3) for case in CASES if case.counted]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """World size → what each rank measured, case by case; `refused` → what each of three ranks was told."""
    folder = tmp_path_factory.mktemp("own_loop")
    out = folder / "ranks.json"
    torchrun("tests.distributed.own_loop", str(out), ranks=3)
    of_ranks = json.loads(out.read_text())
    found = {key: [results[key] for results in of_ranks] for key in ("2", "3", "refused")}
    return {"1": [measure_all(folder, World())], **found, "2": found["2"][:2]}


@pytest.mark.parametrize(("world", "case"), ALL)
def test_gradient_is_that_of_the_unsplit_batch(measured: Measured, world: int, case: Case) -> None:
    for results in measured[str(world)]:
        result = results[case.name]
        assert result["error"] < 1e-12
        assert result["loss_error"] < 1e-12
        assert result["norm_error"] < 1e-12
        assert result["drift"] < 1e-12


@pytest.mark.parametrize(("world", "case"), ALL)
def test_loops_end_together_when_all_loaders_have_ended(measured: Measured, world: int, case: Case) -> None:
    lengths = [len(case.sizes(rank, world)) for rank in range(world)]
    for rank, results in enumerate(measured[str(world)]):
        result = results[case.name]
        assert result["windows"] == ceil(max(lengths) / MICRO_STEPS)
        left_out = sum(case.bare(rank, world, batch) for batch in range(lengths[rank]))
        assert sum(result["micro_steps"]) == lengths[rank] - left_out


@pytest.mark.parametrize(("world", "case"), ALL)
def test_the_schedule_counts_applied_updates(measured: Measured, world: int, case: Case) -> None:
    for results in measured[str(world)]:
        result = results[case.name]
        passed_over = (case.bare(0, world, 3) and result["windows"] > 1) + (0 if case.spoiled is None else 1)
        passed_over = min(passed_over, result["windows"] - 1)
        assert result["applied"] == result["scheduled"] == result["windows"] - passed_over


@pytest.mark.parametrize(("world", "case"), REDUCED)
def test_one_reduction_of_every_bucket_per_update(measured: Measured, world: int, case: Case) -> None:
    for results in measured[str(world)]:
        result = results[case.name]
        assert case.several or result["buckets"] > 1
        # DDP fills its buckets anew after the first backward; the second window may be one without items.
        assert result["reductions"][0] in (1, result["buckets"])
        expected = [0 if case.bare(0, world, 3 * window) else result["buckets"] for window in range(result["windows"])]
        assert result["reductions"][1:] == expected[1:]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", ["tail", "uneven", "none on a rank", "tokens", "scaled"])
def test_the_naive_loop_is_seen_to_be_wrong(measured: Measured, world: int, name: str) -> None:
    assert measured[str(world)][0][name]["naive_error"] > 1e-2


@pytest.mark.parametrize("world", WORLDS)
def test_a_spoiled_step_is_left_out_by_all_ranks(measured: Measured, world: int) -> None:
    """The second window, which a world of one does not have, overflows on one rank or more."""
    scales = {results["scaled"]["scale"] for results in measured[str(world)]}
    assert scales == {1024.0 if measured[str(world)][0]["scaled"]["windows"] == 1 else 512.0}


@pytest.mark.parametrize("name", ["planned", "planned, even"])
@pytest.mark.parametrize("world", WORLDS)
def test_a_launched_loop_has_the_windows_of_its_plan(measured: Measured, world: int, name: str) -> None:
    for results in measured[str(world)]:
        assert results[name]["error"] < 1e-12
        assert results[name]["drift"] < 1e-12


SAID = {
    "plain module": "TypeError: Linear is a plain module, but there are 3 processes",
    "sharded": "TypeError: the Accumulator cannot accumulate a model of FSDP",
    "static graph": "ValueError: DistributedDataParallel(static_graph=True)",
    "communication hook": "fp16_compress_wrapper_hook, and whether that averages over the ranks cannot be told",
    "another's parameters": "ValueError: the optimizer holds 4 of 4 parameters that the model does not have",
    "left half-way": "RuntimeError: accumulator.step() before the window's end",
    "the module inside": "RuntimeError: the loss was not computed by calling the model",
    "an unused parameter": "RuntimeError: gradients were not reduced, because the loss does not use every parameter",
}


@pytest.mark.fault(
    Kind.VALUE,
    "a loop of the user that would train wrongly without an error",
    by="a window left half-way as after a caught exception, a part of the model unused, ...",
    outcome="refused in every rank",
)
@pytest.mark.parametrize("refused", SAID)
def test_what_would_go_wrong_silently_is_refused(measured: Measured, refused: str) -> None:
    for said in measured["refused"]:
        assert SAID[refused] in said[refused]


@pytest.mark.long
def test_in_a_script_of_accelerate(tmp_path: Path) -> None:
    """Two processes of `accelerate launch`, and an environment that has accelerate divide by three."""
    recipe = Recipe.model_validate({"name": "own", "script": {"path": "x.py"}, "batch": {"global": 24, "micro": 4}})
    config, out = tmp_path / "accelerate.yaml", tmp_path / "out.json"
    config.write_text(accelerate_config(make_plan(recipe, Topology(nodes=1, nproc_per_node=2, device="cpu"))))
    command = (sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch")
    done = subprocess.run(
        [*command, "--config_file", str(config), "-m", "tests.rank", "tests.distributed.accelerated_loop", str(out)],
        env=clean_environment(ACCELERATE_USE_CPU="true", ACCELERATE_GRADIENT_ACCUMULATION_STEPS=str(MICRO_STEPS)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    results = json.loads(out.read_text())
    assert [result["batches"] for result in results] == [13, 13]
    for result in results:
        assert result["distributed"] == "DistributedDataParallel"
        assert result["accumulation"] == MICRO_STEPS
        assert result["samples"] == 101
        assert result["windows"] == result["scheduled"] == 5
        assert result["error"] < 1e-12
        assert result["norm_error"] < 1e-12
        assert result["finds_scaler"]
