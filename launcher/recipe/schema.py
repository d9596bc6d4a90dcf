"""The recipe: every key with its type, its default and one line that says what it is for."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field

from launcher.recipe.docker_section import DockerSection
from launcher.recipe.kubernetes_section import KubernetesSection
from launcher.recipe.node_range import NodeRange
from launcher.recipe.parallel_section import ParallelSection
from launcher.recipe.ray_section import RaySection
from launcher.recipe.section import Section
from launcher.recipe.skypilot_section import SkypilotSection
from launcher.recipe.slurm_section import SlurmSection

Count = Annotated[int, Field(ge=1, le=2**62)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
# A name becomes part of paths, job names and dashboards: nothing that a shell or a file system could take apart.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME)]
NODES = r"^[1-9][0-9]{0,4}:[1-9][0-9]{0,4}$"
ENTRY = r"^(.+\.py|[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*):[A-Za-z_][A-Za-z0-9_]*$"


class TaskSection(Section):
    """The model, data and loss to train."""

    entry: str = Field(
        pattern=ENTRY,
        description="The task: a file beside the recipe (task.py:Class) or an installed one (package.module:Class).",
    )
    args: dict[str, Any] = Field(default={}, description="Keyword arguments for the task's constructor.")


class ScriptSection(Section):
    """The user's own training script."""

    path: str = Field(description="The script: a Python file beside the recipe.")
    args: tuple[str, ...] = Field(default=(), strict=False, description="Command-line arguments for the script.")


class DataSection(Section):
    """What is known of the training data before it is opened."""

    samples: Count | None = Field(
        default=None,
        description="Samples in the training data; lets the plan count updates. Checked against the data at the start.",
    )
    workers: Annotated[int, Field(ge=0, le=256)] = Field(
        default=0, description="Data-loading processes per rank; 0 loads in the training process."
    )


class ModelSection(Section):
    """What is known of the model before it is built."""

    parameters: Count | None = Field(
        default=None,
        description="Trainable parameters; lets the plan count bytes. Checked against the model at the start.",
    )


class StageSection(Section):
    """A global batch that the run has before its last one; give exactly one of updates and samples."""

    global_: Count = Field(alias="global", description="Samples per update over all ranks while the stage lasts.")
    updates: Count | None = Field(default=None, description="The stage lasts for so many updates.")
    samples: Count | None = Field(
        default=None, description="The stage lasts until so many more samples were taken, rounded up to whole updates."
    )


class BatchSection(Section):
    """How many samples an update sees; give any two of global, micro and accumulation."""

    global_: Count | None = Field(default=None, alias="global", description="Samples per update over all ranks.")
    micro: Literal["auto"] | Count | None = Field(
        default=None, description="Samples per micro-step of one rank; auto is the most that fits, found by trying."
    )
    accumulation: Count | None = Field(default=None, description="Micro-steps per update of the busiest rank.")
    on_out_of_memory: Literal["stop", "halve"] | None = Field(
        default=None,
        description="When memory runs out, end, or halve micro and go on (reducing after the last backward); "
        "null: halve if auto.",
    )
    tail: Literal["keep", "drop"] = Field(
        default="keep", description="The short last window of an epoch: step on what it has, or drop it."
    )
    schedule: tuple[StageSection, ...] = Field(
        default=(),
        strict=False,
        description="Stages with a global batch of their own, one after the other, before `global` holds.",
    )

    @property
    def halves(self) -> bool:
        """Whether the micro-batch is halved where memory runs out. That costs the overlap of the reduction with the
        last backward, which a size that was chosen does without and one that was found by trying has need of."""
        return self.on_out_of_memory == "halve" or (self.on_out_of_memory is None and self.micro == "auto")


Backward = Literal["joint", "sequential", "shared"]


class MultitaskSection(Section):
    """Several losses."""

    losses: dict[Name, NonNegative] = Field(
        default={}, description="Weight of each loss, by the name that the task gives it; empty for one loss."
    )
    backward: Backward = Field(
        default="joint",
        description="Losses go backward all at once, each as it is yielded, or as heads in turn before their trunk.",
    )


class TrainSection(Section):
    """How long to train, and how; give exactly one of epochs, updates and samples."""

    epochs: Count | None = Field(default=None, description="Passes over the training data.")
    updates: Count | None = Field(default=None, description="Optimizer steps.")
    samples: Count | None = Field(default=None, description="Samples to train on, rounded up to whole updates.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32",
        description="Number format of forward and backward; bf16 and fp16 by autocast over fp32 parameters.",
    )
    accumulate_dtype: Literal["fp32"] | None = Field(
        default=None, description="Number format that gradients are added up in; null: that of the parameters."
    )
    tf32: bool = Field(
        default=False, description="Multiply and convolve fp32 in TF32 on GPUs that have it; false: nowhere."
    )
    compile: bool = Field(default=False, description="Compile the model with torch.compile.")
    max_grad_norm: Positive | None = Field(
        default=None, description="Clip the norm of the update's gradient to this; null does not clip."
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        default=0, description="Seed of the parameters, the sample order and dropout."
    )
    determinism: Literal["same-world", "exact"] = Field(
        default="same-world",
        description="Same bits again on the same number of ranks, or (exact, slower) on any from 1 to virtual_ranks.",
    )
    virtual_ranks: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        default=None, description="The most ranks that an exact run may have; part of what its bits follow from."
    )

    @property
    def exact_ranks(self) -> int | None:
        """Virtual ranks that windows are dealt to, V, where the bits must not depend on the real ones; else None."""
        return self.virtual_ranks if self.determinism == "exact" else None


class OptimizerSection(Section):
    """The optimizer."""

    name: Literal["adamw", "sgd"] = Field(default="adamw", description="The optimizer.")
    lr: Annotated[float, Field(gt=0, le=1e9)] = Field(
        default=1e-3, description="Learning rate before lr_scaling: the peak of the schedule."
    )
    weight_decay: NonNegative = Field(default=0.0, description="Decoupled weight decay (adamw) or L2 penalty (sgd).")
    betas: tuple[Fraction, Fraction] = Field(
        default=(0.9, 0.999), strict=False, description="AdamW's two running-average factors."
    )
    eps: Positive = Field(default=1e-8, description="AdamW's term for numerical stability.")
    momentum: Fraction = Field(default=0.0, description="SGD's momentum.")
    nesterov: bool = Field(default=False, description="SGD with Nesterov momentum.")


class ScheduleSection(Section):
    """The learning rate over the updates of the run."""

    name: Literal["constant", "linear", "cosine", "step"] = Field(
        default="constant",
        description="Shape after the warm-up: from the peak to `final` of it as the run ends, or (step) down at `at`.",
    )
    warmup: Fraction | Annotated[int, Field(ge=0, le=2**62)] = Field(
        default=0, description="Linear warm-up: a number of updates (see `unit`), or a fraction of all updates (0.1)."
    )
    final: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="Learning rate at the end as a fraction of the peak (linear, cosine)."
    )
    at: tuple[Annotated[float, Field(gt=0, lt=1)] | Count, ...] = Field(
        default=(),
        strict=False,
        description="When the rate drops (step): after so many updates (see `unit`), or a fraction of all updates.",
    )
    factor: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="What the rate is multiplied by each time that it drops (step)."
    )
    unit: Literal["updates", "epochs"] = Field(
        default="updates", description="What whole numbers in `warmup` and `at` count."
    )


class LrScalingSection(Section):
    """How the learning rate follows the global batch."""

    rule: Literal["none", "linear", "sqrt"] = Field(
        default="none", description="Multiply the rate by global/reference_batch, by its square root, or not at all."
    )
    reference_batch: Count | None = Field(
        default=None, description="The global batch for which optimizer.lr was chosen."
    )


class EvalSection(Section):
    """When to evaluate."""

    every: Literal["epoch", "end"] | Count = Field(
        default="epoch", description="Evaluate after each epoch, at the end only, or every so many updates."
    )


NonFinite = Literal["stop", "skip", "off"]


class GuardSection(Section):
    """Watching over the ranks."""

    every: Annotated[int, Field(ge=0, le=2**62)] = Field(
        default=100, description="Compare the parameters of all ranks every so many updates and at the end; 0 never."
    )
    heartbeat: Annotated[float, Field(ge=0, le=31_536_000)] = Field(
        default=30.0,
        description="End the run when a rank has shown no sign of life for so many seconds (2 at least); 0 never.",
    )
    stall: Annotated[float, Field(ge=0, le=31_536_000)] = Field(
        default=1800.0,
        description="End the run when no rank has got further for so many seconds, in no micro-step; 0 never.",
    )
    non_finite: NonFinite = Field(
        default="stop",
        description="A loss or gradient that is not finite ends the run (stop), has its update left out (skip), "
        "or passes (off).",
    )


class NoiseScaleSection(Section):
    """How noisy the gradient is, which says how large a batch is worth its samples."""

    every: Annotated[int, Field(ge=0, le=2**62)] = Field(
        default=10, description="Measure the gradient noise scale every so many updates; 0 never."
    )
    measured: Positive | None = Field(
        default=None, description="The noise scale that an earlier run ended with; the plan holds the batch against it."
    )


class AccelerateSection(Section):
    """`accelerate launch`."""

    config_file: str | None = Field(
        default=None, description="Your own accelerate config file, beside the recipe; null: one is written."
    )


class LaunchSection(Section):
    """What starts the workers, and how many."""

    method: Literal["torchrun", "accelerate", "ray"] = Field(default="torchrun", description="What starts the workers.")
    nodes: Annotated[int, Field(ge=1, le=65536)] | Annotated[str, Field(pattern=NODES)] = Field(
        default=1, description='Machines; "1:4" for a run that goes on while they come and go, with 1 to 4 of them.'
    )
    nproc_per_node: Literal["auto"] | Annotated[int, Field(ge=1, le=4096)] = Field(
        default="auto", description="Processes per machine; auto is one per GPU, or one on a machine without."
    )
    grace: Annotated[float, Field(ge=1, le=86400)] = Field(
        default=60.0, description="Seconds that a run has, after a signal, to finish its update and to save."
    )
    restarts: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=3, description="Times that a failed run goes on from its last checkpoint without getting further."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where to train; auto is cuda where there is a GPU."
    )

    accelerate: AccelerateSection = Field(default=AccelerateSection(), description="What accelerate launch reads.")
    slurm: SlurmSection = Field(default=SlurmSection(), description="What launcher submit --to slurm asks for.")
    ray: RaySection = Field(default=RaySection(), description="What launch.method=ray asks a Ray cluster for.")
    docker: DockerSection = Field(default=DockerSection(), description="What a container of Docker is given.")
    skypilot: SkypilotSection = Field(
        default=SkypilotSection(), description="What launcher submit --to skypilot asks for."
    )
    kubernetes: KubernetesSection = Field(
        default=KubernetesSection(), description="What launcher submit --to kubernetes asks for."
    )

    @property
    def signal_before(self) -> int:
        """Seconds before the end of its time at which Slurm is to warn the run."""
        chosen = self.slurm.signal_before
        return math.ceil(self.grace) + 120 if chosen is None else chosen

    @property
    def stop_timeout(self) -> int:
        """Seconds that Docker is to wait for a run that it stops."""
        chosen = self.docker.stop_timeout
        return math.ceil(self.grace) + 120 if chosen is None else chosen

    @property
    def grace_period(self) -> int:
        """Seconds that Kubernetes is to wait for a pod that it ends."""
        chosen = self.kubernetes.grace_period
        return math.ceil(self.grace) + 120 if chosen is None else chosen

    @property
    def machines(self) -> NodeRange:
        """How many machines there may be."""
        return NodeRange.of(self.nodes)

    @property
    def elastic(self) -> bool:
        """Whether machines may come and go."""
        return isinstance(self.nodes, str)


class CheckpointSection(Section):
    """When to save the state of training."""

    every: Count | None = Field(default=None, description="Save every so many updates.")
    minutes: NonNegative = Field(
        default=15.0,
        description="Save when so many minutes have passed since the last time; 0: never. Without both, save nothing.",
    )
    keep: Annotated[int, Field(ge=2)] = Field(
        default=3, description="Checkpoints to keep: at least 2, should the newest prove to be damaged."
    )

    background: bool = Field(
        default=False, description="Copy the state and write it while training goes on; the host must have room for it."
    )

    @property
    def wanted(self) -> bool:
        """Whether anything is saved: now and then, at the end, and when a signal stops the run."""
        return self.every is not None or self.minutes > 0


class WandbSection(Section):
    """Weights & Biases."""

    project: Name | None = Field(default=None, description="The W&B project; null takes the recipe's name.")
    entity: str | None = Field(default=None, description="The W&B user or team; null takes your default.")
    group: str | None = Field(default=None, description="Group of the run on the dashboard.")
    tags: tuple[str, ...] = Field(default=(), strict=False, description="Tags of the run on the dashboard.")
    mode: Literal["auto", "online", "offline", "disabled"] = Field(
        default="auto", description="auto is online when a W&B key is configured and offline otherwise."
    )


class TrackingSection(Section):
    """Where the metrics go, besides metrics.jsonl."""

    wandb: WandbSection = Field(default=WandbSection(), description="Weights & Biases.")


class Recipe(Section):
    """A training job, as its author means it."""

    name: Name = Field(default="run", description="Name of the job; run directories begin with it.")
    task: TaskSection | None = Field(default=None, description="The model, data and loss to train.")
    script: ScriptSection | None = Field(default=None, description="Your own training script, instead of a task.")
    data: DataSection = Field(default=DataSection(), description="What is known of the training data.")
    model: ModelSection = Field(default=ModelSection(), description="What is known of the model.")
    batch: BatchSection = Field(default=BatchSection(), description="How many samples an update sees.")
    multitask: MultitaskSection = Field(default=MultitaskSection(), description="Several losses.")
    train: TrainSection = Field(default=TrainSection(), description="How long to train, and how.")
    optimizer: OptimizerSection = Field(default=OptimizerSection(), description="The optimizer.")
    schedule: ScheduleSection = Field(default=ScheduleSection(), description="The learning rate over time.")
    lr_scaling: LrScalingSection = Field(
        default=LrScalingSection(), description="How the learning rate follows the global batch."
    )
    eval: EvalSection = Field(default=EvalSection(), description="When to evaluate.")
    guard: GuardSection = Field(default=GuardSection(), description="Watching over the ranks.")
    noise_scale: NoiseScaleSection = Field(
        default=NoiseScaleSection(), description="How noisy the gradient is, and what that says of the batch."
    )
    parallel: ParallelSection = Field(default=ParallelSection(), description="How ranks hold the model together.")
    launch: LaunchSection = Field(default=LaunchSection(), description="What starts the workers, and how many.")
    checkpoint: CheckpointSection = Field(
        default=CheckpointSection(), description="When to save the state of training."
    )
    tracking: TrackingSection = Field(default=TrackingSection(), description="Where the metrics go.")


def recipe_json_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file, for editors; `extends` is a key of the file, not of the recipe."""
    schema = Recipe.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "Another recipe, relative to this one, whose keys this one inherits and may replace.",
    }
    return schema
