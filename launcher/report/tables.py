"""The numbers as tables: evaluations, the plan, and what the charts show, for reading, copying and listening."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from launcher import words
from launcher.plan.planner import Plan
from launcher.recipe.schema import MultitaskSection
from launcher.report.evaluation import Extreme, evaluations
from launcher.report.markup import NOTHING, Markup, element, text
from launcher.report.read import STEP, Row, RunRecord

_MOST_ROWS = 60
_MOST_COLUMNS = 16


def evaluation_table(record: RunRecord) -> Markup:
    """Last, lowest and highest value of each eval/* metric, the better one marked; nothing without evaluations."""
    found = evaluations(record)
    if not found:
        return NOTHING
    head = ("Measurement", "Last", "Lowest", "Highest")
    body = (
        [text(one.name), _extreme(one.last), *(_extreme(end, end is one.best) for end in (one.lowest, one.highest))]
        for one in found
    )
    return element("section", element("h2", text("Evaluation")), _table(head, body))


def _extreme(extreme: Extreme, is_best: bool = False) -> Markup:
    value = element("strong" if is_best else "span", text(words.number(extreme.value)))
    where = f" at {words.count(extreme.update)}" + (", best" if is_best else "")
    return element("span", value, element("span", text(where), class_="aside"))


def plan_table(plan: Plan) -> Markup:
    """What was decided before the run."""
    topology, length, rate = plan.topology, plan.length, plan.learning_rate
    recipe = plan.recipe
    where = f"{words.plural(topology.nodes, 'machine')} × {words.plural(topology.nproc_per_node, 'process')}"
    facts = {
        "Ranks": f"{plan.batch.world_size} on {topology.device} ({where})",
        "Started by": recipe.launch.method,
        "Gradient sync": recipe.parallel.engine,
        "Precision": recipe.train.precision,
        "Optimizer": f"{recipe.optimizer.name}, peak rate {words.number(rate.peak)}, {rate.shape}",
        "Seed": str(recipe.train.seed),
        "Training data": _known(length.data_samples, "sample"),
        "Updates per epoch": words.count(length.updates_per_epoch),
        **_losses(recipe.multitask),
        "Parameters": words.count(plan.reduction.parameters) if plan.reduction else words.UNKNOWN,
    }
    rows = (element("div", element("dt", text(name)), element("dd", text(said))) for name, said in facts.items())
    return element("dl", *rows, class_="facts")


def stages_table(plan: Plan) -> Markup:
    """The stages of the batch schedule, updates counted from 1 as in the charts; nothing without a schedule."""
    if len(plan.stages) == 1:
        return NOTHING
    head = ("From update", "Samples per update", "Micro-steps per rank", "Updates", "Learning-rate scale")
    body = (
        [
            text(words.count(stage.first_update + 1)),
            text(words.count(stage.global_)),
            text(words.least_or_most(stage.micro_steps)),
            text(words.count(stage.updates)),
            text(words.number(stage.learning_rate_scale)),
        ]
        for stage in plan.stages
    )
    return _table(head, body)


def _losses(multitask: MultitaskSection) -> dict[str, str]:
    """Several losses with their weights, and how they go backward."""
    weights = ", ".join(f"{name} × {words.number(weight)}" for name, weight in multitask.losses.items())
    return {"Losses": weights, "Backward": multitask.backward} if weights else {}


def _known(how_many: int | None, thing: str) -> str:
    return words.UNKNOWN if how_many is None else words.plural(how_many, thing)


def numbers_table(record: RunRecord) -> Markup:
    """The rows of metrics.jsonl, evenly chosen where there are many."""
    names = sorted(record.names - {STEP}, key=_by_importance)[:_MOST_COLUMNS]
    rows = _evenly(record.rows, _MOST_ROWS)
    body = ([text(words.count(row[STEP])), *(_cell(row, name) for name in names)] for row in rows)
    return _table(("update", *names), body)


def _by_importance(name: str) -> tuple[int, str]:
    order = ("train/", "eval/", "batch/", "throughput/", "comm/", "time/", "memory/")
    return next((place for place, prefix in enumerate(order) if name.startswith(prefix)), len(order)), name


def _cell(row: Row, name: str) -> Markup:
    return text(words.number(row[name], 5)) if name in row else NOTHING


def _evenly(rows: Sequence[Row], most: int) -> Sequence[Row]:
    if len(rows) <= most:
        return rows
    return [rows[(len(rows) - 1) * index // (most - 1)] for index in range(most)]


def _table(head: Sequence[str], body: Iterable[Sequence[Markup]]) -> Markup:
    """A table that scrolls sideways on its own where it does not fit."""
    headings = element("tr", *(element("th", text(name), scope="col") for name in head))
    rows = (element("tr", *(element("td", cell) for cell in row)) for row in body)
    table = element("table", element("thead", headings), element("tbody", *rows))
    return element("div", table, class_="table", tabindex="0", role="region", aria_label="Table")
