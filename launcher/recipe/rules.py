"""Rules that hold between keys, checked before anything is planned.

Each rule names the sections that it looks at and answers with the mistakes that it finds, so that one command
reports all that can be known.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from launcher.errors import Mistake
from launcher.recipe.elastic_rules import ELASTIC_RULES
from launcher.recipe.engine_rules import ENGINE_RULES
from launcher.recipe.fitting import hindrances
from launcher.recipe.schema import BatchSection, Recipe
from launcher.recipe.section import Section
from launcher.recipe.slurm_rules import SLURM_RULES

Rule = Callable[[Recipe], Iterator[Mistake]]


def broken_rules(recipe: Recipe, unknown: Collection[str] = ()) -> Iterator[Mistake]:
    """Every rule between keys that the recipe breaks.

    Args:
        recipe: the recipe.
        unknown: sections whose values are wrong and of which the recipe has the defaults; their rules must wait.
    """
    for rule, sections in _RULES:
        if not any(section in unknown for section in sections):
            yield from rule(recipe)


def _one_thing_to_run(recipe: Recipe) -> Iterator[Mistake]:
    if recipe.task and recipe.script:
        yield Mistake("script", "a recipe runs a task or a script, not both", "Delete task or script")
    if not recipe.task and not recipe.script:
        yield Mistake(
            "task",
            "is missing: the recipe says nothing to run",
            "Add task: {entry: task.py:YourTask}, or script: {path: train.py} for your own script",
        )


def _two_of_the_batch(recipe: Recipe) -> Iterator[Mistake]:
    batch = recipe.batch
    if batch.micro == "auto":
        yield from _auto_finds_the_rest(batch)
        return
    given = {"global": batch.global_, "micro": batch.micro, "accumulation": batch.accumulation}
    present = [key for key, value in given.items() if value is not None]
    if len(present) >= 2:
        return
    cure = {
        (): "Write for example batch: {global: 256, micro: 32}",
        ("global",): "Add batch.micro, the samples that fit into one forward and backward (auto finds them)",
        ("micro",): "Add batch.global, the samples of one update over all ranks",
        ("accumulation",): "Add batch.global, the samples of one update over all ranks",
    }[tuple(present)]
    only = f"only {present[0]} is" if present else "none is"
    yield Mistake("batch", f"two of global, micro and accumulation are needed, and {only} given", cure)


def _auto_finds_the_rest(batch: BatchSection) -> Iterator[Mistake]:
    if batch.global_ is None:
        yield Mistake(
            "batch.micro",
            "auto needs batch.global, the samples of one update over all ranks: it says how many micro-steps they make",
            "Write for example batch: {global: 256, micro: auto}",
        )
    if batch.accumulation is not None:
        yield Mistake(
            "batch.accumulation",
            "cannot be chosen with batch.micro=auto: it follows from what fits",
            "Delete it, or give it instead of batch.micro",
        )


def _sizes_can_be_tried(recipe: Recipe) -> Iterator[Mistake]:
    batch = recipe.batch
    for key, why in hindrances(recipe):
        if batch.micro == "auto":
            yield Mistake("batch.micro", f"auto does not go with {key}: {why}", "Give a number")
        if batch.on_out_of_memory == "halve":
            yield Mistake("batch.on_out_of_memory", f"halve does not go with {key}: {why}", "Set it to stop")


def _schedule_leads_to_a_global_batch(recipe: Recipe) -> Iterator[Mistake]:
    batch = recipe.batch
    # Without micro or accumulation, the rule above asks for batch.global already.
    if batch.schedule and batch.global_ is None and batch.micro is not None and batch.accumulation is not None:
        yield Mistake(
            "batch.schedule",
            "needs batch.global, the samples per update from the end of the schedule on",
            "Give batch.global instead of batch.accumulation, or set batch.schedule=null",
        )


def _one_length_for_each_stage(recipe: Recipe) -> Iterator[Mistake]:
    for index, stage in enumerate(recipe.batch.schedule):
        key = f"batch.schedule.{index}"
        if stage.updates is None and stage.samples is None:
            yield Mistake(
                key,
                "one of updates and samples is needed, to say how long the stage lasts",
                f"Write for example {{global: {stage.global_}, updates: 100}}",
            )
        elif stage.updates is not None and stage.samples is not None:
            yield Mistake(key, "updates and samples are given; a stage has one length", "Keep one of them")


def _one_length(recipe: Recipe) -> Iterator[Mistake]:
    given = [key for key in ("epochs", "updates", "samples") if getattr(recipe.train, key) is not None]
    if not given and not recipe.script:
        yield Mistake("train", "one of epochs, updates and samples is needed", "Write for example train: {epochs: 20}")
    if len(given) > 1:
        unset = " ".join(f"train.{key}=null" for key in given[:-1])
        yield Mistake(
            "train",
            f"{', '.join(given[:-1])} and {given[-1]} are given; a run has one length",
            f"Keep one of them, or unset on the command line: {unset}",
        )


def _scaling_has_a_reference(recipe: Recipe) -> Iterator[Mistake]:
    scaling = recipe.lr_scaling
    if scaling.rule != "none" and scaling.reference_batch is None:
        yield Mistake(
            "lr_scaling.rule",
            f"{scaling.rule} needs lr_scaling.reference_batch, the global batch for which optimizer.lr was chosen",
            "Add it, or set lr_scaling.rule=none",
        )


def _step_alone_drops(recipe: Recipe) -> Iterator[Mistake]:
    schedule = recipe.schedule
    if schedule.name == "step" and not schedule.at:
        yield Mistake(
            "schedule.at", "is missing: step drops the rate there", "Write for example schedule.at=[0.5, 0.75]"
        )
    if schedule.name != "step" and schedule.at:
        yield Mistake("schedule.at", f"{schedule.name} has no drops", "Set schedule.name=step, or delete the key")


def _sgd_alone_has_momentum(recipe: Recipe) -> Iterator[Mistake]:
    optimizer = recipe.optimizer
    if optimizer.name == "adamw" and (optimizer.momentum or optimizer.nesterov):
        key = "momentum" if optimizer.momentum else "nesterov"
        yield Mistake(f"optimizer.{key}", "adamw has no such setting", "Use optimizer.betas, or optimizer.name=sgd")
    if optimizer.name == "sgd" and optimizer.nesterov and not optimizer.momentum:
        yield Mistake("optimizer.nesterov", "needs momentum", "Write for example optimizer.momentum=0.9")


def _exact_says_it_all(recipe: Recipe) -> Iterator[Mistake]:
    """Whatever an exact run's bits follow from is in the recipe, and nothing of it in the number of ranks."""
    if recipe.train.determinism != "exact":
        if recipe.train.virtual_ranks is not None:
            yield Mistake(
                "train.virtual_ranks", "only exact runs have virtual ranks", "Delete it, or set train.determinism=exact"
            )
        return
    if recipe.train.virtual_ranks is None:
        yield Mistake(
            "train.determinism",
            "exact needs train.virtual_ranks, the most ranks that the run may ever have",
            "Write for example train.virtual_ranks=8",
        )
    for key, value in (("global", recipe.batch.global_), ("micro", recipe.batch.micro)):
        if value is None:
            yield Mistake(
                "train.determinism",
                f"exact needs batch.{key}: from batch.accumulation it would follow with the number of ranks",
                "Give batch.global and batch.micro",
            )
    if recipe.parallel.sync_batchnorm:
        yield Mistake(
            "train.determinism",
            "exact goes without parallel.sync_batchnorm, whose statistics follow from the number of ranks",
            "Set one of the two back; GroupNorm and LayerNorm go with exact",
        )
    if recipe.train.compile:
        yield Mistake(
            "train.determinism",
            "exact goes without train.compile, which compiles for the shapes that a rank meets, in their order",
            "Set one of the two back",
        )


def _script_does_it_itself(recipe: Recipe) -> Iterator[Mistake]:
    """Settings of our own loop, which a script would have to read for them to mean anything."""
    if recipe.script is None or recipe.task is not None:
        return
    for name in ("multitask", "schedule", "eval", "guard", "parallel"):
        yield from _changed_from_default(name, getattr(recipe, name), ())
    yield from _changed_from_default("train", recipe.train, ("epochs", "updates", "samples", "seed", "precision"))


def _script_has_its_own_batch_schedule(recipe: Recipe) -> Iterator[Mistake]:
    if recipe.script is not None and recipe.task is None:
        yield from _changed_from_default(
            "batch", recipe.batch, ("global_", "micro", "accumulation", "tail", "on_out_of_memory")
        )


def _changed_from_default(name: str, section: Section, allowed: tuple[str, ...]) -> Iterator[Mistake]:
    for key, field in type(section).model_fields.items():
        if key not in allowed and getattr(section, key) != field.default:
            yield Mistake(f"{name}.{key}", "a script does this itself", "Delete the key and set it in the script")


_RULES: tuple[tuple[Rule, tuple[str, ...]], ...] = (
    (_one_thing_to_run, ("task", "script")),
    (_two_of_the_batch, ("batch",)),
    (_sizes_can_be_tried, ("batch", "task", "script", "train", "parallel")),
    (_schedule_leads_to_a_global_batch, ("batch",)),
    (_one_length_for_each_stage, ("batch",)),
    (_one_length, ("train", "script")),
    (_scaling_has_a_reference, ("lr_scaling",)),
    (_step_alone_drops, ("schedule",)),
    (_sgd_alone_has_momentum, ("optimizer",)),
    *ENGINE_RULES,
    (_exact_says_it_all, ("train", "batch", "parallel")),
    *ELASTIC_RULES,
    *SLURM_RULES,
    (_script_does_it_itself, ("task", "script", "multitask", "schedule", "eval", "guard", "parallel", "train")),
    (_script_has_its_own_batch_schedule, ("task", "script", "batch")),
)
