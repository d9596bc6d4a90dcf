"""The questions that a project has about its runs, as a dashboard over the metrics that they log."""

from __future__ import annotations

from collections.abc import Iterator, Set

from launcher.dashboard.panels import TRAINING_TIME, WALL_TIME, Bars, Dashboard, Line, Scatter, Section, quantity
from launcher.recipe.schema import Recipe

_UPDATES, _SAMPLES, _TOKENS = "train/global_step", "train/samples_seen", "train/tokens_seen"
_BATCH, _STEPS, _RANKS = "batch/global_samples", "batch/micro_steps", "batch/world_size"
_SPEED, _TOKEN_SPEED = "throughput/samples_per_sec", "throughput/tokens_per_sec"
_REDUCED, _GATHERED = "comm/allreduce_bytes", "comm/allgather_bytes"
_NOISE = "train/gradient_noise_scale"


def dashboard_of(recipe: Recipe, logged: Set[str] = frozenset()) -> Dashboard:
    """The dashboard of a recipe's project.

    Args:
        recipe: the recipe.
        logged: the metrics that a run of it has logged. Without them, what only some tasks measure (tokens) is left
            out, and all that they evaluate is in one panel.
    """
    wandb = recipe.tracking.wandb
    sections = (
        _batch(),
        _loss(recipe, logged),
        _communication(recipe),
        *_noise(recipe, logged),
        _throughput(logged),
        _evaluation(logged),
        _optimizer(),
        _restarts(),
    )
    return Dashboard(project=wandb.project or recipe.name, entity=wandb.entity, sections=sections)


def _batch() -> Section:
    per_step = f"{quantity(_BATCH)} / ({quantity(_STEPS)} * {quantity(_RANKS)})"
    return Section(
        name="Effective global batch",
        question="How many samples did an update really see, and what was that made of?",
        panels=(
            Line(title="Samples per update", x=_UPDATES, metrics=(_BATCH,)),
            Line(title="Ranks", x=_UPDATES, metrics=(_RANKS,)),
            Line(title="Micro-steps of a rank per update", x=_UPDATES, metrics=(_STEPS,)),
            Line(title="Samples of a micro-step, on average at least", x=_UPDATES, formulas=(per_step,)),
            Line(title="Items per update (samples or tokens)", x=_UPDATES, metrics=("batch/global_items",)),
        ),
    )


def _loss(recipe: Recipe, logged: Set[str]) -> Section:
    axes = {_UPDATES: "updates", _SAMPLES: "samples", TRAINING_TIME: "time"}
    if _TOKENS in logged:
        axes[_TOKENS] = "tokens"
    panels = [Line(title=f"Loss against {over}", x=x, metrics=("train/loss",)) for x, over in axes.items()]
    if len(recipe.multitask.losses) > 1:
        each = tuple(f"train/loss/{name}" for name in recipe.multitask.losses)
        panels.append(Line(title="Each loss, before its weight", x=_UPDATES, metrics=each))
    return Section(
        name="Loss",
        question="Does a larger batch learn more from an update, from a sample, and in an hour?",
        panels=tuple(panels),
    )


def _communication(recipe: Recipe) -> Section:
    """What crosses the network; beside it what a reduction in every micro-step would send, where that is not done."""
    fsdp, reduces = recipe.parallel.fsdp, recipe.parallel.abilities.reduces
    once = reduces == "boundary" or (reduces == "choice" and fsdp.defer_reduction)
    reduced = Line(title="Bytes of gradient reduced per update, in every micro-step", x=_UPDATES, metrics=(_REDUCED,))
    if once:
        each_step = f"{quantity(_REDUCED)} * {quantity(_STEPS)}"
        reduced = Line(
            title="Bytes of gradient reduced per update, and with a reduction per micro-step",
            x=_UPDATES,
            formulas=(quantity(_REDUCED), each_step),
        )
    panels = [reduced, Line(title="Reductions per update", x=_UPDATES, metrics=("comm/allreduce_calls",))]
    if recipe.parallel.engine == "fsdp":
        panels.append(Line(title="Bytes of parameters gathered per update", x=_UPDATES, metrics=(_GATHERED,)))
    return Section(
        name="Communication saved",
        question="What crossed the network for an update, and what would have without accumulation?",
        panels=tuple(panels),
    )


def _noise(recipe: Recipe, logged: Set[str]) -> Iterator[Section]:
    """Left out where the recipe does not measure it, or a run has not."""
    if recipe.noise_scale.every == 0 or (logged and _NOISE not in logged):
        return
    yield Section(
        name="Gradient noise scale",
        question="Is the batch too large? From about the noise scale on, more samples per update buy little.",
        panels=(
            Line(title="Noise scale and batch, in samples", x=_UPDATES, metrics=(_NOISE, _BATCH), log_y=True),
            Line(title="Noise scale against loss", x="train/loss", metrics=(_NOISE,), log_y=True),
        ),
    )


def _throughput(logged: Set[str]) -> Section:
    per_rank = f"{quantity(_SPEED)} / {quantity(_RANKS)}"
    waiting = f"{quantity('time/data')} / {quantity('time/update')}"
    tokens = [Line(title="Tokens per second", x=_UPDATES, metrics=(_TOKEN_SPEED,))] if _TOKEN_SPEED in logged else []
    return Section(
        name="Throughput and scaling",
        question="How much faster do more ranks train?",
        panels=(
            Scatter(title="Samples per second against ranks, each run", x=_RANKS, y=_SPEED),
            Bars(title="Samples per second by ranks, mean of the runs", metric=_SPEED, by="batch.world"),
            Line(title="Samples per second and rank: level means that it scales", x=_RANKS, formulas=(per_rank,)),
            Line(title="Samples per second", x=_UPDATES, metrics=(_SPEED,)),
            *tokens,
            Line(title="Seconds per update", x=_UPDATES, metrics=("time/update",)),
            Line(title="Part of it spent waiting for data", x=_UPDATES, formulas=(waiting,)),
            Line(title="Most memory used, bytes", x=_UPDATES, metrics=("memory/peak_bytes",)),
        ),
    )


def _evaluation(logged: Set[str]) -> Section:
    """A panel for each measurement that is known, which may be of any size; else one for all."""
    known = sorted(name for name in logged if name.startswith("eval/"))
    panels = tuple(Line(title=name, x=_SAMPLES, metrics=(name,)) for name in known)
    return Section(
        name="Evaluation",
        question="How good is it on data that it was not trained on?",
        panels=panels or (Line(title="Evaluation", x=_SAMPLES, pattern="^eval/"),),
    )


def _optimizer() -> Section:
    return Section(
        name="Learning rate and gradient norm",
        question="Is the training stable?",
        panels=(
            Line(title="Learning rate", x=_UPDATES, metrics=("train/learning_rate",)),
            Line(title="Gradient norm, before clipping", x=_UPDATES, metrics=("train/grad_norm",), log_y=True),
            Line(title="Updates without a step so far", x=_UPDATES, metrics=("train/skipped_updates",)),
        ),
    )


def _restarts() -> Section:
    return Section(
        name="Restarts",
        question="When did the run stand still, and how did its machines change? A level stretch is a break.",
        panels=(
            Line(title="Updates against time by the clock", x=WALL_TIME, metrics=(_UPDATES,)),
            Line(title="Ranks against time by the clock", x=WALL_TIME, metrics=(_RANKS,)),
            Line(title="Seconds per update against time by the clock", x=WALL_TIME, metrics=("time/update",)),
        ),
    )
