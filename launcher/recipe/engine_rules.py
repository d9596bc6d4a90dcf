"""Rules between the keys of an engine and the rest of the recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from launcher.errors import Mistake
from launcher.recipe.engines import Abilities, engines_that
from launcher.recipe.schema import Recipe


def _sync_batchnorm_needs_a_gpu(recipe: Recipe) -> Iterator[Mistake]:
    if recipe.parallel.sync_batchnorm and recipe.launch.device == "cpu":
        yield Mistake(
            "parallel.sync_batchnorm", "PyTorch has it on GPUs only", "Set it to false, or launch.device=cuda"
        )


def _engine_can(recipe: Recipe) -> Iterator[Mistake]:
    """What the engine cannot is refused, with those that can."""
    parallel, backward = recipe.parallel, recipe.multitask.backward
    asked: tuple[tuple[bool, str, str, Callable[[Abilities], bool]], ...] = (
        (
            recipe.train.exact_ranks is not None,
            "train.determinism",
            "exact adds gradients in one order, whatever the number of ranks",
            lambda can: can.exact,
        ),
        (
            backward != "joint",
            "multitask.backward",
            f"{backward} takes several losses backward one by one",
            lambda can: can.several_backwards,
        ),
        (
            recipe.launch.elastic,
            "launch.nodes",
            f"{recipe.launch.machines} goes on with other ranks",
            lambda can: can.elastic,
        ),
        (
            parallel.find_unused_parameters,
            "parallel.find_unused_parameters",
            "allows forward passes to leave parameters out",
            lambda can: can.unused_parameters,
        ),
        (
            parallel.sync_batchnorm,
            "parallel.sync_batchnorm",
            "takes statistics from all ranks",
            lambda can: can.sync_batchnorm,
        ),
        (
            recipe.train.accumulate_dtype is not None,
            "train.accumulate_dtype",
            "adds gradients up in another format than the parameters have",
            lambda can: can.wide_gradients,
        ),
        (
            recipe.train.compile,
            "train.compile",
            "compiles the model",
            lambda can: can.compiles,
        ),
    )
    for wanted, key, what, can in asked:
        if wanted and not can(parallel.abilities):
            yield Mistake(
                key,
                f"{what}, which parallel.engine={parallel.engine} cannot",
                f"Set it back, or parallel.engine={engines_that(can)}",
            )


def _accelerate_reads_its_config(recipe: Recipe) -> Iterator[Mistake]:
    launch = recipe.launch
    if launch.accelerate.config_file is not None and launch.method != "accelerate":
        yield Mistake(
            "launch.accelerate.config_file",
            f"launch.method={launch.method} reads no accelerate config",
            "Set launch.method=accelerate, or delete the key",
        )


def _deepspeed_stage_can(recipe: Recipe) -> Iterator[Mistake]:
    """What a ZeRO stage lacks."""
    settings, precision = recipe.parallel.deepspeed, recipe.train.precision
    if recipe.parallel.engine != "deepspeed":
        return
    if settings.offload_optimizer and settings.stage == 0:
        yield Mistake(
            "parallel.deepspeed.offload_optimizer",
            "ZeRO stage 0 shares out nothing, and offloads nothing",
            "Set parallel.deepspeed.stage=1, 2 or 3",
        )
    if settings.offload_parameters and settings.stage < 3:
        yield Mistake(
            "parallel.deepspeed.offload_parameters",
            f"ZeRO stage {settings.stage} keeps the parameters whole on every rank",
            "Set parallel.deepspeed.stage=3",
        )
    if settings.stage == 0 and precision != "fp32":
        yield Mistake(
            "parallel.deepspeed.stage",
            f"ZeRO stage 0 trains in fp32 only here, not in {precision}",
            "Set parallel.deepspeed.stage=1, which also holds a whole model, or parallel.engine=ddp",
        )


def _compiled_buckets(recipe: Recipe) -> Iterator[Mistake]:
    """PyTorch cuts what it compiles at the buckets, of which it takes the first one to be of 1 MiB."""
    if recipe.train.compile and recipe.parallel.engine in ("ddp", "accelerate") and recipe.parallel.bucket_mb < 1:
        yield Mistake(
            "parallel.bucket_mb",
            f"train.compile needs at least 1, not {recipe.parallel.bucket_mb:g}",
            "Delete it, or set train.compile=false",
        )


def _blocks_to_compute_again(recipe: Recipe) -> Iterator[Mistake]:
    fsdp = recipe.parallel.fsdp
    if recipe.parallel.engine == "fsdp" and fsdp.checkpoint_activations and not fsdp.wrap:
        yield Mistake(
            "parallel.fsdp.checkpoint_activations",
            "computes the blocks again that parallel.fsdp.wrap names, and it names none",
            "Write for example parallel.fsdp.wrap=[Block], with the class of the model's blocks",
        )


ENGINE_RULES = (
    (_sync_batchnorm_needs_a_gpu, ("parallel", "launch")),
    (_engine_can, ("train", "multitask", "launch", "parallel")),
    (_accelerate_reads_its_config, ("launch",)),
    (_deepspeed_stage_can, ("parallel", "train")),
    (_compiled_buckets, ("train", "parallel")),
    (_blocks_to_compute_again, ("parallel",)),
)
