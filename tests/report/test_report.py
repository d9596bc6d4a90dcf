"""The report of a run: a page that holds together whatever the run left behind."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.errors import RunDirectoryUnusableError
from launcher.plan.planner import Plan, make_plan
from launcher.plan.topology import Topology
from launcher.recipe.dump import recipe_to_yaml
from launcher.recipe.schema import Recipe
from launcher.report.axis import update_axis, value_axis
from launcher.report.chart import Chart, Series, draw
from launcher.report.evaluation import evaluations, headline
from launcher.report.page import render_page
from launcher.report.pictures import batch_figure
from launcher.report.read import Point, Row, RunRecord, read_run
from launcher.report.readout import draw_readout
from launcher.report.thinning import chunk_means, thinned
from launcher.report.write import write_report
from launcher.rundir.failure import FailureRecord
from launcher.rundir.layout import RunDirectory
from launcher.rundir.status import FailureStatus, RunStatus
from tests.processes import ROOT, clean_environment


def a_plan(world: int = 4, global_batch: int = 256, micro: int = 32, **sections: Any) -> Plan:
    data: dict[str, Any] = {
        "name": "digits",
        "batch": {"global": global_batch, "micro": micro},
        "data": {"samples": 1437},
        "model": {"parameters": 1000},
        "train": {"epochs": 20, "max_grad_norm": 1.0},
        "optimizer": {"lr": 0.003},
        "schedule": {"name": "cosine", "warmup": 0.1},
    }
    recipe = Recipe.model_validate({**data, **sections})
    return make_plan(recipe, Topology(nodes=1, nproc_per_node=world, device="cpu"))


def rows_of(plan: Plan, updates: int | None = None) -> tuple[Row, ...]:
    """Rows as a run of the plan logs them, an evaluation at each end of an epoch."""
    sent = plan.reduction.bytes_per_update if plan.reduction else 0
    rows: list[Row] = []
    for window in plan.windows():
        if window.update == updates:
            break
        step = window.update + 1
        evaluation = {"eval/accuracy": 1 - 1 / (step + 1), "eval/loss": 2 / step}
        rows.append(
            {
                "train/global_step": step,
                "train/epoch": window.epoch + (window.first + window.samples) / 1437,
                "train/loss": 2.3 / step,
                "train/learning_rate": plan.learning_rate.at(window.update),
                "train/grad_norm": 1.0 + 1 / step,
                "train/samples_seen": window.samples_seen,
                "batch/global_samples": window.samples,
                "batch/micro_steps": len(window.micro_batches(0)),
                "comm/allreduce_bytes": sent,
                "throughput/samples_per_sec": window.samples / 0.1,
                "time/update": 0.1,
                "time/data": 0.01,
                "memory/peak_bytes": 4e8,
                **(evaluation if step % (plan.length.updates_per_epoch or 1) == 0 else {}),
            }
        )
    return tuple(rows)


def a_record(updates: int | None = None, plan: Plan | None = None, **changes: Any) -> RunRecord:
    plan = plan or a_plan()
    rows = rows_of(plan, updates)
    record = RunRecord("digits-1", plan, recipe_to_yaml(plan.recipe), rows, RunStatus("done", len(rows), exit_code=0))
    return replace(record, **changes)


def a_run(folder: Path, record: RunRecord) -> RunDirectory:
    """The files of a run, as a launch leaves them."""
    run = RunDirectory(folder / record.run_id)
    run.path.mkdir()
    run.plan.write_text(record.plan.to_json())
    run.recipe.write_text(record.recipe)
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in record.rows))
    if record.status is not None:
        record.status.write(run)
    return run


class Reader(HTMLParser):
    """Reads a page as a browser would: words, tags, and the tags that were left open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(page: str) -> Reader:
    """Read a page, after seeing that it holds together and needs nothing from elsewhere."""
    reader = Reader(page)
    assert not reader.open
    assert not {"script", "link", "img", "iframe", "object"} & set(reader.tags)
    assert not re.search(r"(?:src|href)\s*=|url\(|@import|\bon\w+=", page)
    assert "://" not in page.replace("http://www.w3.org/", "")
    tree = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    for svg in tree.iter("svg"):
        for drawn in svg.iter():
            assert not re.search(r"\b(nan|inf|None)\b", " ".join(drawn.attrib.values())), drawn.attrib
    return reader


def test_done_run_shows_its_batch_and_its_outcome() -> None:
    reader = read(render_page(a_record()))
    assert "done 120 of 120 updates made." in reader.said
    assert "256 samples per update = 4 ranks × 2 micro-steps × 32 samples" in reader.said
    assert "the 157 samples that are left, scaled by 157 and not by 256" in reader.said
    assert "Counted: 100 updates with 256 samples, 20 updates with 157 samples." in reader.said
    assert "Best accuracy 0.9917 at update 120" in reader.said
    # 20 tails have 2 micro-steps of rank 0 as well, so exactly half of what would be is sent.
    assert "480 kB in all per rank, not 960 kB: no_sync kept 50.0% off the network." in reader.said
    assert "samples: 1437" in reader.said
    assert "Warnings" not in reader.said


def test_every_chart_says_what_it_shows() -> None:
    tree = ElementTree.fromstring(render_page(a_record()).removeprefix("<!DOCTYPE html>\n"))
    charts = [svg for svg in tree.iter("svg") if svg.get("role") == "img"]
    assert len(charts) == 9  # loss, accuracy, two windows, batch, rate, norm, throughput, traffic
    assert all(svg[0].tag == "title" and svg[0].text and svg[1].tag == "desc" and svg[1].text for svg in charts)
    rate = next(svg[1].text for svg in charts if svg[0].text == "Learning rate of each update")
    assert rate == ("train/learning_rate: 0.00025 at update 1, 6.346e-7 at update 120, between 6.346e-7 and 0.003.")


def svg_of(page: str, title: str) -> ElementTree.Element:
    """The chart of this title."""
    tree = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    return next(svg for svg in tree.iter("svg") if svg.get("role") == "img" and svg[0].text == title)


def test_several_losses_are_lines_of_one_chart() -> None:
    plan = a_plan(multitask={"losses": {"class": 1.0, "parity": 0.5}, "backward": "shared"})
    rows = tuple({**row, "train/loss/class": 2.0, "train/loss/parity": 1.0} for row in rows_of(plan))
    page = render_page(a_record(plan=plan, rows=rows))
    chart = svg_of(page, "Each loss over the updates of the run")
    assert [path.get("class") for path in chart.iter("path")] == ["line a", "line b"]
    assert "Losses class × 1, parity × 0.5 Backward shared" in read(page).said
    assert "once per update, after the last backward of its last micro-step" in read(page).said
    many = tuple({**row, **{f"train/loss/{name}": 1.0 for name in "abcdefg"}} for row in rows)
    assert render_page(a_record(plan=plan, rows=many)).count("<title>Each loss over the updates of the run") == 2


def test_noise_scale_is_held_against_the_batch() -> None:
    rows = tuple(
        {**row, "train/gradient_noise_scale": 1000.0 + place} if place % 10 == 9 else row
        for place, row in enumerate(rows_of(a_plan()))
    )
    page = render_page(a_record(rows=rows))
    assert (
        "At the end about 1,100 samples; the global batch of 256 is below it: a larger batch still" in read(page).said
    )
    assert "With noise_scale.measured=1100" in read(page).said
    chart = svg_of(page, "Gradient noise scale and global batch, in samples")
    assert [path.get("class") for path in chart.iter("path")] == ["dashed b", "marked a"]
    assert "noise_scale.measured" not in read(render_page(a_record())).said


def test_updates_without_a_step_are_told() -> None:
    rows = [{**row, "train/skipped_updates": float(place > 2)} for place, row in enumerate(rows_of(a_plan()))]
    for name in ("train/loss", "train/grad_norm"):
        del rows[3][name]
    said = read(render_page(a_record(rows=tuple(rows)))).said
    assert "1 update made no optimizer step" in said
    assert "not a finite number" not in said
    assert "no optimizer step" not in read(render_page(a_record())).said


def test_failed_run_begins_with_its_root_cause(tmp_path: Path) -> None:
    run = a_run(tmp_path, a_record(17))
    log = str(run.rank_log(2))
    RunStatus("failed", 17, 4000, 3, FailureStatus(2, "ValueError: bad label", log)).write(run)
    FailureRecord(2, 5, "ValueError", "bad label\n11 is not in 0..9", 18).write(run)
    FailureRecord(0, 9, "RuntimeError", "Connection closed by peer", 18).write(run)
    page = write_report(run).read_text()
    said = read(page).said
    assert "failed 17 of 120 updates made. Exit code 3." in said
    assert "Root cause Rank 2, in update 18: ValueError: bad label" in said
    assert "11 is not in 0..9" in said
    assert "The rest is in logs/rank_2.log" in said
    assert str(tmp_path) not in page
    assert "closed by peer" not in said


def test_failed_run_without_a_record_names_what_the_status_knows() -> None:
    failure = FailureStatus(-1, "the agent ended with exit code 1", "/runs/digits-1/logs/agent.log")
    said = read(render_page(a_record(1, status=RunStatus("failed", 1, 256, 3, failure)))).said
    assert "No rank failed first: the agent ended with exit code 1" in said
    assert "logs/agent.log" in said
    unknown = read(render_page(a_record(1, status=RunStatus("failed", 1, 256, 3)))).said
    assert "Nothing is on record" in unknown


@pytest.mark.parametrize("updates", [0, 1, 2])
@pytest.mark.parametrize("world", [1, 3])
def test_young_run(updates: int, world: int) -> None:
    record = a_record(updates, a_plan(world), status=RunStatus("running", updates))
    reader = read(render_page(record))
    assert f"running {updates} of 120 updates made." in reader.said
    assert ("About 11." in reader.said) == (updates > 0)
    assert ("Nothing measured yet." in reader.said) == (updates == 0)
    assert ("One rank: no gradient crosses the network." in reader.said) == (world == 1)
    assert ("circle" in reader.tags) == (updates == 1)  # one update is a dot, not an invisible line


def test_run_that_has_said_nothing_yet() -> None:
    said = read(render_page(a_record(0, status=None))).said
    assert "no status 0 of 120 updates made." in said


def test_long_run_stays_small_and_keeps_its_spikes() -> None:
    updates = 100_000
    plan = a_plan(train={"updates": updates})
    spike = 31_415
    rows = [dict(row) for row in rows_of(plan)]
    rows[spike]["train/loss"] = 1e6
    page = render_page(a_record(0, plan, rows=tuple(rows)))
    assert len(page.encode()) < 1_000_000
    said = read(page).said
    assert "between 2.3e-5 and 1,000,000" in page
    assert "mean of 1,000 updates" in said
    assert f"100,000 of {updates:,} updates made." in said


def test_nulls_are_gaps_and_a_lost_loss_is_a_warning() -> None:
    rows = [dict(row) for row in rows_of(a_plan())]
    for row in rows[40:50]:
        row.update(dict.fromkeys(row.keys() - {"train/global_step"}))
    said = read(render_page(a_record(rows=tuple(rows)))).said
    assert "The loss is not a finite number in 10 updates, first in update 41." in said
    nothing = tuple(
        dict.fromkeys(row.keys() - {"train/global_step"}) | {"train/global_step": i + 1.0} for i, row in enumerate(rows)
    )
    assert "Nothing measured yet." in read(render_page(a_record(rows=nothing))).said


def test_rows_may_lack_what_this_version_logs() -> None:
    rows = tuple({"train/global_step": update, "train/loss": 1.0} for update in (1, 2, 3))
    read(render_page(a_record(rows=rows, plan=a_plan(model={}))))


NAMES = sorted(
    {
        *rows_of(a_plan(), 6)[-1],
        *("train/loss/depth", "train/loss/pose", "train/gradient_noise_scale", "train/skipped_updates"),
    }
)
ROWS = st.lists(st.dictionaries(st.sampled_from(NAMES), st.one_of(st.none(), st.floats(), st.integers())), max_size=8)


@settings(deadline=None, max_examples=50)
@given(ROWS)
def test_any_rows_make_a_page(rows: list[dict[str, float | None]]) -> None:
    with TemporaryDirectory() as folder:
        numbered = tuple({**row, "train/global_step": float(place)} for place, row in enumerate(rows, 1))
        read(write_report(a_run(Path(folder), a_record(rows=numbered))).read_text())


def test_words_from_outside_stay_words() -> None:
    evil = "</style><script>alert('1')</script>\x1b[31m\x00\ud800 & \"quoted\""
    plan = a_plan(task={"entry": "task.py:Digits", "args": {"title": evil}})
    plan = plan.model_copy(update={"warnings": (evil,)})
    status = RunStatus("failed", 1, 1, 3, FailureStatus(0, evil, evil))
    rows = ({"train/global_step": 1.0, f"eval/{evil}": 1.0, f"train/loss/{evil}": 2.0},)
    cause = FailureRecord(0, 1, evil, evil + "!", 1)
    page = render_page(a_record(plan=plan, rows=rows, status=status, cause=cause, run_id=evil, recipe=evil))
    reader = read(page)
    assert "script" not in reader.tags
    assert reader.said.count("<script>alert('1')</script>") >= 7
    page.encode("utf-8")


def test_ranks_are_drawn_or_told() -> None:
    few = render_page(a_record(1, a_plan(world=3, global_batch=228)))
    assert few.count('class="box boundary"') == 6  # of three ranks, in the full window and in the tail
    assert few.count('class="box inner"') == 5
    assert "ranks 0 to 1: 3 × 32 = 96 samples; rank 2: 32 + 4 = 36 samples." in read(few).said
    many = render_page(a_record(1, a_plan(world=64, global_batch=1437, micro=8)))
    assert 'class="box' not in many
    assert "ranks 0 to 51: 3 × 8 = 24 samples" in read(many).said
    idle = read(render_page(a_record(1, a_plan(world=4, global_batch=64)))).said
    assert "2 ranks with 1 micro-step, 2 ranks with none, of weight zero" in idle
    assert "ranks 2 to 3: no samples, takes part with weight zero" in idle


def test_data_smaller_than_the_batch_is_all_tail() -> None:
    said = read(render_page(a_record(1, a_plan(global_batch=2048)))).said
    assert "The tail: 1,437 samples" in said
    assert "A full window" not in said


def test_stages_of_a_batch_schedule_are_shown_and_are_no_tails() -> None:
    schedule = [{"global": 64, "updates": 20}, {"global": 100, "samples": 3000}]
    scaling = {"rule": "linear", "reference_batch": 256}
    record = a_record(plan=a_plan(batch={"global": 256, "micro": 32, "schedule": schedule}, lr_scaling=scaling))
    said = read(render_page(record)).said
    assert "256 samples per update from update 53 on = 4 ranks × 2 micro-steps × 32 samples" in said
    assert "1 64 0 or 1 20 0.25 21 100 1 32 0.3906 53 256 2 102 1" in said
    assert "Samples per update 256 64 at first" in said
    full, tails = batch_figure(record).chart.series
    assert [update for update, _ in tails.points[:3]] == [22, 37, 52]
    assert {samples for _, samples in full.points} == {64, 100, 256}
    assert "Learning-rate scale" not in read(render_page(a_record())).said


def test_reduction_of_a_loop_without_no_sync_is_shown_as_it_is() -> None:
    rows = tuple({**row, "comm/allreduce_bytes": 8000.0} for row in rows_of(a_plan()))
    said = read(render_page(a_record(rows=rows))).said
    assert "960 kB in all per rank, as much as without no_sync." in said


def test_reading_a_run_that_was_killed_while_it_wrote(tmp_path: Path) -> None:
    run = a_run(tmp_path, a_record(12, status=None))
    whole = run.metrics.read_text()
    run.metrics.write_text(whole[:-40] + '\n[1]\n{"train/loss": 1}\n{"train/global_step": NaN}\n\n')
    run.status.write_text('{"state": "run')
    record = read_run(run)
    assert [row["train/global_step"] for row in record.rows] == list(range(1, 12))
    assert record.unreadable == 4
    assert record.status is None
    assert "4 lines of metrics.jsonl cannot be read" in read(render_page(record)).said


def test_a_resumed_run_shows_what_it_did_last(tmp_path: Path) -> None:
    record = a_record(6)
    again = tuple({**row, "train/loss": 7.0} for row in record.rows[3:5])
    run = a_run(tmp_path, replace(record, rows=record.rows + again))
    found = read_run(run)
    assert [update for update, _ in found.column("train/loss")] == [1, 2, 3, 4, 5]
    assert found.values("train/loss")[3:] == [7.0, 7.0]


def test_reading_round_trip(tmp_path: Path) -> None:
    record = a_record(6, status=RunStatus("preempted", 6, 1437, 75))
    assert read_run(a_run(tmp_path, record)) == record
    run = RunDirectory(tmp_path / record.run_id)
    run.recipe.unlink()
    run.metrics.unlink()
    assert read_run(run) == replace(record, rows=())


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with pytest.raises(RunDirectoryUnusableError, match=r"no plan\.json"):
        write_report(run)
    run.plan.write_text('{"version": 1}')
    with pytest.raises(RunDirectoryUnusableError, match="recipe: Field required"):
        write_report(run)
    assert not run.report.exists()


def test_best_is_told_by_the_name() -> None:
    rows = tuple(
        {"train/global_step": step, "eval/word_error": e, "eval/top1": t, "eval/depth": d}
        for step, e, t, d in ((1.0, 0.5, 0.1, 3.0), (2.0, 0.2, 0.7, 1.0), (3.0, 0.3, 0.6, 2.0))
    )
    found = {one.name: one for one in evaluations(a_record(rows=rows))}
    assert [(name, one.best.update if one.best else None) for name, one in found.items()] == [
        ("depth", None),
        ("top1", 2.0),
        ("word_error", 2.0),
    ]
    chosen = headline(found.values())
    assert chosen is not None
    assert chosen.name == "top1"


def test_report_imports_no_framework(tmp_path: Path) -> None:
    run = a_run(tmp_path, a_record(6))
    code = (
        "import sys, pathlib; from launcher.report.write import write_report; "
        "from launcher.rundir.layout import RunDirectory; write_report(RunDirectory(pathlib.Path(sys.argv[1]))); "
        "print(sorted({'torch', 'accelerate', 'deepspeed', 'wandb'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run.path)],
        env=clean_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "[]"
    assert run.report.is_file()


VALUES = st.lists(st.one_of(st.none(), st.floats(-1e150, 1e150), st.floats(1e-9, 1e9)), max_size=40)


@given(VALUES, st.sampled_from(["line", "faint", "dashed", "marked", "dots", "bars"]), st.booleans())
def test_any_values_can_be_drawn(values: list[float | None], look: Any, from_zero: bool) -> None:
    points: list[Point] = [(update + 1.0, value) for update, value in enumerate(values)]
    chart = Chart("any", (1.0, float(max(1, len(values)))), (Series("one", points, look),), from_zero=from_zero)
    svg = ElementTree.fromstring(draw(chart))
    ElementTree.fromstring(draw_readout(chart))
    for circle in svg.iter("circle"):
        assert -0.1 <= float(circle.attrib["cy"]) <= chart.height + 0.1
    marks = [text.text for text in svg.iter("text") if text.get("class") == "mark up"]
    assert 2 <= len(marks) <= 12
    assert len(set(marks)) == len(marks)


@given(st.lists(st.floats(-1e150, 1e150), min_size=1, max_size=9), st.booleans())
def test_axes_hold_their_values(values: list[float], from_zero: bool) -> None:
    axis = value_axis(values, from_zero=from_zero)
    assert all(-1e-6 <= axis.at(value) <= 1 + 1e-6 for value in values)
    assert list(axis.ticks) == sorted(axis.ticks)


def test_axes_are_round() -> None:
    assert value_axis([0.3, 9.2], from_zero=True).ticks == (0, 2, 4, 6, 8, 10)
    assert value_axis([5.0, 5.0], from_zero=False).ticks[0] < 5 < value_axis([5.0], from_zero=False).ticks[-1]
    wide = value_axis([0.02, 3.0], from_zero=False)
    assert wide.log
    assert wide.ticks == pytest.approx((0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5))
    assert not value_axis([0.02, 1.9], from_zero=False).log
    assert not value_axis([0.0, 1000.0], from_zero=False).log
    assert update_axis(1, 120).ticks == (20, 40, 60, 80, 100, 120)
    assert update_axis(1, 1).ticks == (1,)


@given(st.lists(st.one_of(st.none(), st.floats(-100, 100)), min_size=1, max_size=300))
def test_thinning_keeps_ends_order_and_extremes(values: list[float | None]) -> None:
    points: list[Point] = list(enumerate(values))
    kept = thinned(points, 20)
    assert len(kept) <= 20
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert kept == sorted(set(kept), key=lambda point: point[0])
    assert set(kept) <= set(points)
    known = [value for value in values if value is not None]
    still = [value for _, value in kept if value is not None]
    assert (min(still, default=None), max(still, default=None)) == (min(known, default=None), max(known, default=None))


def test_chunk_means_leave_gaps() -> None:
    points: list[Point] = [(1, 1.0), (2, 3.0), (3, None), (4, 5.0), (5, None), (6, None), (7, 2.0)]
    assert chunk_means(points, 4) == ([(1.5, 2.0), (3.5, 5.0), (5.5, None), (7.0, 2.0)], 2)
