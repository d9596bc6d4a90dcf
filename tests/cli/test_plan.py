from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from launcher.cli.app import repeat_option
from launcher.cli.gradient_text import gradient_lines
from launcher.cli.plan_json import plan_as_json
from launcher.plan.planner import make_plan
from launcher.plan.topology import Topology
from launcher.recipe.schema import Recipe
from tests.processes import ROOT, clean_environment, launcher

DIGITS = "recipes/digits/recipe.yaml"

DERIVATION = """\
digits: 3 ranks on cpu (1 machine × 3), by torchrun

Batch
  global batch         250  batch.global
  micro-batch           32  batch.micro
  micro-batches          8  = 250 / 32, rounded up, the last of 26
  micro-steps       2 or 3  per rank = 8 / 3 ranks
  check                250  = 7 × 32 + 26 samples

Window (■ reduces gradients, □ does not)
  rank 0                96  □□■
  rank 1                96  □□■
  rank 2                58   □■

Length
  samples            1,437  per epoch: data.samples
  windows                6  per epoch = 5 of 250 and a tail of 187, kept
  updates              120  = 6 × 20 epochs

Learning rate
  peak            0.009766  = 0.01 × 250/256 (linear)
  warm-up               12  updates, linear
  end                    0  cosine

Gradients
  reduced            153 kB  per update = 38,282 parameters × 4 B
  without no_sync    459 kB  = 3 × as much

On other numbers of ranks
  ranks    global batch    micro-steps    at work    peak rate
      1             250              8     100.0%     0.009766
      2             250              4      97.7%     0.009766
     64             250         0 or 1      12.2%     0.009766

warning: ranks have 2 or 3 micro-steps: 13.2% of their time is spent waiting;
batch.global=192 or 288 divides evenly.
"""


def plan(*arguments: str, columns: str = "80") -> str:
    done = launcher("plan", *arguments, env={"COLUMNS": columns})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def stripped(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines())


def test_plan_is_a_derivation_to_check_by_hand() -> None:
    text = stripped(
        plan(DIGITS, "launch.nproc_per_node=3", "launch.device=cpu", "batch.global=250", "--world", "1", "2", "64")
    )
    shown, _, command = text.partition("\nCommand")
    assert shown == DERIVATION.rstrip("\n") + "\n"
    assert "launcher.worker.agent torchrun --standalone --nproc-per-node=3" in command


EDITIONS = """\
3 losses (multitask.backward)
  edition     forward       graphs at once   trunk backwards  reduction
  joint       one trunk     trunk + 3 heads                1  overlapped
  sequential  each its own  1                              3  afterwards
▸ shared      one trunk     trunk + 1 head                 1  afterwards
"""


def test_plan_says_which_edition_costs_what() -> None:
    multitask = ("recipes/multitask/recipe.yaml", "launch.nproc_per_node=2", "launch.device=cpu")
    assert EDITIONS in stripped(plan(*multitask))
    found = json.loads(plan(*multitask, "--json"))["multitask"]
    assert found["losses"] == {"class": 1.0, "parity": 0.3, "reconstruction": 0.5}
    assert found["backward"] == "shared"
    assert {row["backward"]: row["trunk_backwards"] for row in found["editions"]} == {
        "joint": 1,
        "sequential": 3,
        "shared": 1,
    }
    assert json.loads(plan(DIGITS, "--json"))["multitask"]["editions"] == []


def test_plan_holds_the_batch_against_a_measured_noise_scale() -> None:
    text = stripped(plan(DIGITS, "noise_scale.measured=1849", columns="120"))
    assert (
        "Noise of the gradient\n"
        "  noise scale        1,849  samples: noise_scale.measured\n"
        "  global batch         256  below it: a larger batch still saves updates nearly in proportion\n"
    ) in text
    found = json.loads(plan(DIGITS, "--json", "noise_scale.measured=100"))
    assert found["noise_scale"] == {"measured": 100, "batch": "above"}
    assert json.loads(plan(DIGITS, "--json"))["noise_scale"] is None


@pytest.mark.parametrize(
    ("world", "copies", "when", "memory"),
    [
        (3, "1.5 ×", "after the last backward: 3 ranks < 8 virtual ranks", "3 ×"),
        (8, "1 ×", "while the last backward goes on: 8 ranks = 8 virtual ranks", "2 ×"),
    ],
)
def test_plan_says_what_exact_costs(world: int, copies: str, when: str, memory: str) -> None:
    given = {
        "task": {"entry": "package.module:Task"},
        "batch": {"global": 8, "micro": 1},
        "train": {"updates": 2, "determinism": "exact", "virtual_ranks": 8},
        "model": {"parameters": 1_000_000},
    }
    planned = make_plan(Recipe.model_validate(given), Topology(nodes=1, nproc_per_node=world, device="cpu"))
    lines = {label: (value, source) for label, value, source in gradient_lines(planned)}
    assert lines["exact: bytes"] == (copies, "those of a ring all-reduce, added in the order of a tree")
    assert lines["exact: reduced"] == ("overlaps" if world == 8 else "waits", when)
    extra = f"{(int(memory[0]) - 1) * 4} MB more"
    assert lines["exact: memory"] == (memory, f"the gradients, at most, where plain training holds 1: {extra}")
    exact = plan_as_json(planned, (), (), None)["exact"]
    assert (exact["overlapped"], exact["gradient_copies"]) == (world == 8, int(memory[0]))
    assert exact["ring_bytes_per_update"] == 4_000_000
    assert exact["bytes_per_update"] == 4_000_000 * float(copies[:-2])


def test_plan_of_data_that_is_not_known_says_so() -> None:
    text = plan(DIGITS, "data.samples=null", "model.parameters=null", "launch.nproc_per_node=2", columns="120")
    assert "known when the data is opened, or give data.samples" in text
    assert "give model.parameters for bytes" in text


def test_json_has_the_numbers_of_the_contract() -> None:
    found = json.loads(
        plan(DIGITS, "--json", "--world", "1", "2", "4", "8", "64", "launch.nproc_per_node=3", "launch.device=cpu")
    )
    assert found["batch"]["global"] == 256
    assert found["batch"]["micro"] == 32
    assert found["batch"]["world_size"] == 3
    assert found["batch"]["micro_steps"] == [3, 3, 2]
    assert found["updates_per_epoch"] == 6
    assert found["tail_samples"] == 157
    assert found["learning_rate"] == 0.01
    assert len(found["warnings"]) == 1
    assert "torchrun" in found["command"]
    assert [row["world_size"] for row in found["worlds"]] == [1, 2, 4, 8, 64]


RAMP = (
    "launch.nproc_per_node=2",
    "launch.device=cpu",
    "batch.schedule=[{global: 64, updates: 20}, {global: 100, samples: 3000}]",
)

STAGES = """\
Batch schedule
  from update    global batch    micro-steps    updates    rate scale
            1              64              1         20          0.25
           21             100              2         32        0.3906
           53             256              4        102             1

Length
  samples            1,437  per epoch: data.samples
  windows                6  per epoch = 5 of 256 and a tail of 157, kept
  updates              154  train.epochs 20, with the batch schedule
"""


def test_plan_shows_the_stages_of_a_batch_schedule() -> None:
    text = stripped(plan(DIGITS, *RAMP))
    assert STAGES in text
    assert "  global batch         256  batch.global, from update 53 on\n" in text
    assert "Batch schedule" not in plan(DIGITS, *RAMP, "batch.schedule=null")


def test_json_has_the_stages_of_a_batch_schedule() -> None:
    found = json.loads(plan(DIGITS, *RAMP, "--json"))
    assert found["stages"] == [
        {"global": 64, "micro_steps": [1, 1], "first_update": 0, "updates": 20, "learning_rate_scale": 0.25},
        {"global": 100, "micro_steps": [2, 2], "first_update": 20, "updates": 32, "learning_rate_scale": 0.390625},
        {"global": 256, "micro_steps": [4, 4], "first_update": 52, "updates": 102, "learning_rate_scale": 1.0},
    ]
    (alone,) = json.loads(plan(DIGITS, *RAMP, "batch.schedule=[]", "--json"))["stages"]
    assert (alone["global"], alone["first_update"], alone["updates"]) == (256, 0, 120)


@pytest.mark.parametrize("columns", ["20", "40", "300"])
def test_plan_on_any_width_of_terminal(columns: str) -> None:
    assert "□" in plan(DIGITS, "launch.nproc_per_node=2", "launch.device=cpu", "--world", "1", "2", columns=columns)


def test_worlds_may_stand_before_the_overrides() -> None:
    arguments = ["plan", DIGITS, "--world", "1", "2", "launch.nproc_per_node=2", "--json"]
    repeated = ["plan", DIGITS, "--world", "1", "--world", "2", "launch.nproc_per_node=2", "--json"]
    assert repeat_option("--world", arguments) == repeated
    assert repeat_option("--world", ["--world=4", "8"]) == ["--world=4", "--world", "8"]


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """As in `launcher plan ... | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "launcher", "plan", DIGITS],
        env=clean_environment(),
        cwd=ROOT,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [("--help",), ("plan", "--help"), ("run", "--help"), ("schema",)])
def test_help_and_schema_answer(arguments: tuple[str, ...]) -> None:
    done = launcher(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_without_arguments_the_help_is_shown() -> None:
    done = launcher()
    assert done.returncode == 2
    assert "Show the batch arithmetic of a recipe." in done.stdout + done.stderr


def test_several_machines_are_planned_and_started_by_others() -> None:
    assert "launcher submit ... --to slurm" in plan(DIGITS, "launch.nodes=2", "launch.nproc_per_node=2")
    assert json.loads(plan(DIGITS, "launch.nodes=2", "--json"))["command"] is None
    done = launcher("run", DIGITS, "launch.nodes=2")
    assert done.returncode == 2
    assert done.stderr == (
        "launcher: command line: launch.nodes: this command starts the ranks of one machine. "
        "Hand it to Slurm by launcher submit, start each by --nodes, --node-rank and --rendezvous, or set "
        "launch.nodes=1.\n"
    )


def test_an_unknown_command_or_flag_is_a_wrong_request() -> None:
    for arguments in (("traian", DIGITS), ("plan", DIGITS, "--wrold", "2"), ("plan",)):
        done = launcher(*arguments)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_plan_of_a_micro_batch_that_is_to_be_found() -> None:
    settings = ("batch.micro=auto", "batch.global=250", "launch.nproc_per_node=2", "model.parameters=1000")
    text = " ".join(plan(DIGITS, *settings, columns="200").split())
    assert "micro-batch 125 auto: the most that fits, at most 125; found before the first update" in text
    assert "when after the last backward and not during it, when all ranks know that the window fitted" in text
    assert json.loads(plan(DIGITS, *settings, "--json"))["batch"]["micro_is_the_most"]
    stops = " ".join(plan(DIGITS, *settings, "batch.on_out_of_memory=stop", columns="200").split())
    assert "not during it" not in stops
