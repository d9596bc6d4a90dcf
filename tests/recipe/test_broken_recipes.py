"""Broken recipes through the real command line: one clear sentence for each mistake, and nothing was touched."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from launcher.cli.app import main
from launcher.errors import ExitCode
from tests.faults.table import Kind
from tests.processes import launcher
from tests.recipe.folder import RECIPE, TASK, write


@dataclass(frozen=True)
class Broken:
    """A request that must be refused.

    Attributes:
        recipe: the text of recipe.yaml; None for none.
        message: all that is printed; a line for each mistake.
        overrides: further arguments.
        target: the recipe that is named on the command line.
        files: other files of the folder.
    """

    recipe: str | bytes | None
    message: str | tuple[str, ...]
    overrides: tuple[str, ...] = ()
    target: str = "recipe.yaml"
    files: dict[str, str] = field(default_factory=dict)

    @property
    def printed(self) -> str:
        """What standard error holds."""
        if isinstance(self.message, str):
            return f"launcher: {self.message}\n"
        return "".join(f"{line}\n" for line in ("launcher:", *self.message))


def with_batch(batch: str) -> str:
    """The recipe with this batch, in line 4."""
    return RECIPE.replace("{global: 8, micro: 2}", batch)


def with_schedule(*stages: str) -> str:
    """The recipe with these stages, from line 8 on."""
    lines = "".join(f"\n    - {stage}" for stage in stages)
    return with_batch(f"\n  global: 8\n  micro: 2\n  schedule:{lines}")


def without(line: str) -> str:
    """The recipe without one of its lines."""
    assert line in RECIPE
    return RECIPE.replace(line, "")


TASK_LINES = "task:\n  entry: task.py:Digits\n"
SCRIPT = "name: tiny\nscript: {path: train.py}\nbatch: {global: 8, micro: 2}\n"
SECTIONS = (
    "name, task, script, data, model, batch, multitask, train, optimizer, schedule, lr_scaling, eval, "
    "guard, noise_scale, parallel, launch, "
    "checkpoint, tracking, extends"
)
NAME = "must be 1 to 64 letters, digits, dots, dashes or underscores, a letter or digit first"

BROKEN: dict[str, Broken] = {
    # Keys
    "misspelt section": Broken(
        f"{RECIPE}optimiser: {{lr: 0.1}}\n", "recipe.yaml:6: optimiser: unknown key. Did you mean optimizer?"
    ),
    "misspelt key": Broken(
        with_batch("{global: 8, mirco: 2}"), "recipe.yaml:4: batch.mirco: unknown key. Did you mean batch.micro?"
    ),
    "key at the wrong level": Broken(
        f"lr: 0.1\n{RECIPE}", "recipe.yaml:1: lr: unknown key. Did you mean optimizer.lr?"
    ),
    "key in the wrong section": Broken(
        RECIPE.replace("epochs: 2", "epochs: 2, lr: 0.1"),
        "recipe.yaml:5: train.lr: unknown key. Did you mean optimizer.lr?",
    ),
    "another launcher's key": Broken(
        f"{RECIPE}gradient_accumulation_steps: 4\n",
        "recipe.yaml:6: gradient_accumulation_steps: unknown key. Did you mean batch.accumulation?",
    ),
    "argument of the task": Broken(
        RECIPE.replace("entry: task.py:Digits", "entry: task.py:Digits\n  hidden: 64"),
        "recipe.yaml:4: task.hidden: unknown key. Did you mean task.args.hidden?",
    ),
    "unheard-of section": Broken(
        f"{RECIPE}zzz: 1\n", f"recipe.yaml:6: zzz: unknown key. A recipe has the keys {SECTIONS}."
    ),
    "unheard-of key": Broken(
        with_batch("{global: 8, micro: 2, zzz: 1}"),
        "recipe.yaml:4: batch.zzz: unknown key. batch has the keys global, micro, accumulation, on_out_of_memory, "
        "tail, schedule.",
    ),
    "dotted key in a file": Broken(
        f"{RECIPE}optimizer.lr: 0.1\n", "recipe.yaml:6: optimizer.lr: unknown key. In a file, write lr under optimizer."
    ),
    # What an engine cannot
    "exact on a sharding engine": Broken(
        f"{RECIPE}parallel: {{engine: fsdp}}\n",
        "command line: train.determinism: exact adds gradients in one order, whatever the number of ranks, which "
        "parallel.engine=fsdp cannot. Set it back, or parallel.engine=ddp.",
        overrides=("train.determinism=exact", "train.virtual_ranks=4"),
    ),
    "nothing to compute again": Broken(
        f"{RECIPE}parallel: {{engine: fsdp, fsdp: {{checkpoint_activations: true}}}}\n",
        "recipe.yaml:6: parallel.fsdp.checkpoint_activations: computes the blocks again that parallel.fsdp.wrap names, "
        "and it names none. Write for example parallel.fsdp.wrap=[Block], with the class of the model's blocks.",
    ),
    # Types
    "text for a number": Broken(
        f"{RECIPE}optimizer: {{lr: fast}}\n", "recipe.yaml:6: optimizer.lr: must be a number above 0, not 'fast'."
    ),
    "quoted number": Broken(
        with_batch('{global: "8", micro: 2}'),
        "recipe.yaml:4: batch.global: must be a whole number of at least 1, not '8'. Write 8.",
    ),
    "number with underscore": Broken(
        with_batch("{global: 1_024, micro: 2}"),
        "recipe.yaml:4: batch.global: must be a whole number of at least 1, not '1_024'. Write 1024.",
    ),
    "fraction for a count": Broken(
        with_batch("{global: 8.0, micro: 2}"),
        "recipe.yaml:4: batch.global: must be a whole number of at least 1, not 8.0. Write 8.",
    ),
    "boolean for a count": Broken(
        with_batch("{global: true, micro: 2}"),
        "recipe.yaml:4: batch.global: must be a whole number of at least 1, not true.",
    ),
    "zero": Broken(
        with_batch("{global: 8, micro: 0}"),
        "recipe.yaml:4: batch.micro: must be auto or a whole number of at least 1, not 0.",
    ),
    "negative": Broken(
        f"{RECIPE}optimizer: {{lr: -1e-3}}\n", "recipe.yaml:6: optimizer.lr: must be a number above 0, not -0.001."
    ),
    "2 ** 63": Broken(
        with_batch(f"{{global: {2**63}, micro: 2}}"),
        "recipe.yaml:4: batch.global: must be a whole number from 1 to 4611686018427387904, not 9223372036854775808.",
    ),
    "not a number": Broken(
        f"{RECIPE}optimizer: {{lr: .nan}}\n", "recipe.yaml:6: optimizer.lr: must be a number above 0, not '.nan'."
    ),
    "list for a mapping": Broken(
        f"{RECIPE}optimizer: [adamw, 0.1]\n",
        "recipe.yaml:6: optimizer: must be a mapping with the keys name, lr, weight_decay, betas, eps, momentum, "
        "nesterov, not ['adamw', 0.1].",
    ),
    "mapping for a number": Broken(
        with_batch("{global: {value: 8}, micro: 2}"),
        "recipe.yaml:4: batch.global: must be a whole number of at least 1, not a mapping.",
    ),
    "section without keys": Broken(
        f"{RECIPE}schedule:\n",
        "recipe.yaml:6: schedule: must be a mapping with the keys name, warmup, final, at, factor, "
        "unit, not null. "
        "Give it a value, or delete the key.",
    ),
    "one of two": Broken(
        f"{RECIPE}optimizer:\n  betas: [0.9]\n",
        "recipe.yaml:7: optimizer.betas: must be a list of 2, each a number from 0 to below 1, not [0.9].",
    ),
    "entry of a list": Broken(
        f"{RECIPE}optimizer:\n  betas:\n    - 0.9\n    - 1.0\n",
        "recipe.yaml:9: optimizer.betas: entry 2 must be a number from 0 to below 1, not 1.0.",
    ),
    "number among arguments": Broken(
        SCRIPT.replace("train.py", "train.py, args: [--seed, 5]"),
        "recipe.yaml:2: script.args: entry 2 must be text, not 5. Put quotes around it.",
        files={"train.py": "pass\n"},
    ),
    "yes for true": Broken(
        f"{RECIPE}parallel: {{find_unused_parameters: yes}}\n",
        "recipe.yaml:6: parallel.find_unused_parameters: must be true or false, not 'yes'. Write true.",
    ),
    "engine that does not exist": Broken(
        f"{RECIPE}parallel: {{engine: horovod}}\n",
        "recipe.yaml:6: parallel.engine: must be ddp, accelerate, deepspeed or fsdp, not 'horovod'.",
    ),
    "optimizer that does not exist": Broken(
        f"{RECIPE}optimizer: {{name: adam}}\n",
        "recipe.yaml:6: optimizer.name: must be adamw or sgd, not 'adam'. Did you mean adamw?",
    ),
    "run name with a slash": Broken(
        RECIPE.replace("tiny", "mine/tiny"), f"recipe.yaml:1: name: {NAME}, not 'mine/tiny'."
    ),
    "run name that is a number": Broken(
        RECIPE.replace("tiny", "42"), f"recipe.yaml:1: name: {NAME}, not 42. Put quotes around it."
    ),
    "step without drops": Broken(
        f"{RECIPE}schedule: {{name: step}}\n",
        "recipe.yaml:6: schedule.at: is missing: step drops the rate there. Write for example schedule.at=[0.5, 0.75].",
    ),
    "drops without step": Broken(
        f"{RECIPE}schedule: {{name: cosine, at: [0.5]}}\n",
        "recipe.yaml:6: schedule.at: cosine has no drops. Set schedule.name=step, or delete the key.",
    ),
    "drop at the start": Broken(
        f"{RECIPE}schedule: {{name: step, at: [0, 9]}}\n",
        "recipe.yaml:6: schedule.at: entry 1 must be a number above 0 or a whole number of at least 1, not 0.",
    ),
    # What is run
    "nothing to run": Broken(
        without(TASK_LINES),
        "recipe.yaml: task: is missing: the recipe says nothing to run. "
        "Add task: {entry: task.py:YourTask}, or script: {path: train.py} for your own script.",
    ),
    "task and script": Broken(
        f"{RECIPE}script: {{path: task.py}}\nschedule: {{name: cosine}}\n",
        "recipe.yaml:6: script: a recipe runs a task or a script, not both. Delete task or script.",
    ),
    "task without entry": Broken(
        RECIPE.replace("entry: task.py:Digits", "args: {hidden: 8}"),
        "recipe.yaml:2: task.entry: is missing: it must be file.py:Class or package.module:Class. Add it.",
    ),
    "task without its mapping": Broken(
        RECIPE.replace("task:\n  entry: ", "task: "),
        "recipe.yaml:2: task: must be a mapping with the keys entry, args, not 'task.py:Digits'. "
        "Write task: {entry: task.py:Digits}.",
    ),
    "task without class": Broken(
        RECIPE.replace(":Digits", ""),
        "recipe.yaml:3: task.entry: must be file.py:Class or package.module:Class, not 'task.py'.",
    ),
    "script that is not there": Broken(
        SCRIPT,
        "recipe.yaml:2: script.path: there is no file /train.py. Paths start from the folder of the recipe.",
    ),
    "script with a typing mistake": Broken(
        SCRIPT.replace("train.py", "trian.py"),
        "recipe.yaml:2: script.path: there is no file /trian.py. Did you mean /train.py?",
        files={"train.py": "pass\n"},
    ),
    "setting that a script must have itself": Broken(
        f"{SCRIPT}schedule: {{name: cosine}}\n",
        "recipe.yaml:4: schedule.name: a script does this itself. Delete the key and set it in the script.",
        files={"train.py": "pass\n"},
    ),
    "schedule of the batch that a script must have itself": Broken(
        SCRIPT.replace("micro: 2", "micro: 2, schedule: [{global: 4, updates: 1}]"),
        "recipe.yaml:3: batch.schedule: a script does this itself. Delete the key and set it in the script.",
        files={"train.py": "pass\n"},
    ),
    "losses that a script must have itself": Broken(
        f"{SCRIPT}multitask: {{backward: shared}}\n",
        "recipe.yaml:4: multitask.backward: a script does this itself. Delete the key and set it in the script.",
        files={"train.py": "pass\n"},
    ),
    "task file that is not there": Broken(
        RECIPE.replace("task.py", "tsk.py"),
        "recipe.yaml:3: task.entry: there is no file /tsk.py. Did you mean /task.py?",
    ),
    "class that is not there": Broken(
        RECIPE.replace("Digits", "Digit"),
        "recipe.yaml:3: task.entry: /task.py has no class Digit. Did you mean Digits?",
    ),
    "class like none": Broken(
        RECIPE.replace("Digits", "Zebra"),
        "recipe.yaml:3: task.entry: /task.py has no class Zebra. Its classes are Digits, Letters.",
    ),
    "task with a syntax error": Broken(
        RECIPE,
        "recipe.yaml:3: task.entry: /task.py:4 is not Python: expected ':'. Correct the file.",
        files={"task.py": "from launcher import Task\n\n\nclass Digits(Task)\n    pass\n"},
    ),
    # The batch
    "no batch": Broken(
        without("batch: {global: 8, micro: 2}\n"),
        "recipe.yaml: batch: two of global, micro and accumulation are needed, and none is given. "
        "Write for example batch: {global: 256, micro: 32}.",
    ),
    "global alone": Broken(
        with_batch("{global: 8}"),
        "recipe.yaml:4: batch: two of global, micro and accumulation are needed, and only global is given. "
        "Add batch.micro, the samples that fit into one forward and backward (auto finds them).",
    ),
    "auto alone": Broken(
        with_batch("{micro: auto}"),
        "recipe.yaml:4: batch.micro: auto needs batch.global, the samples of one update over all ranks: it says how "
        "many micro-steps they make. Write for example batch: {global: 256, micro: auto}.",
    ),
    "auto with accumulation": Broken(
        with_batch("{global: 8, micro: auto, accumulation: 2}"),
        "recipe.yaml:4: batch.accumulation: cannot be chosen with batch.micro=auto: it follows from what fits. "
        "Delete it, or give it instead of batch.micro.",
    ),
    "another word for auto": Broken(
        with_batch("{global: 8, micro: max}"),
        "recipe.yaml:4: batch.micro: must be auto or a whole number of at least 1, not 'max'.",
    ),
    "auto in a script": Broken(
        SCRIPT.replace("micro: 2", "micro: auto"),
        "recipe.yaml:3: batch.micro: auto does not go with script: a script loads and steps by itself. Give a number.",
        files={"train.py": "pass\n"},
    ),
    "auto with sharded models": Broken(
        with_batch("{global: 8, micro: auto}") + "parallel: {engine: fsdp}\n",
        "recipe.yaml:4: batch.micro: auto does not go with parallel.engine: fsdp lets ranks wait for each other in a "
        "forward or backward, where one may run out of memory alone (those that do not: ddp). Give a number.",
    ),
    "halving in a script": Broken(
        SCRIPT.replace("micro: 2", "micro: 2, on_out_of_memory: halve"),
        "recipe.yaml:3: batch.on_out_of_memory: halve does not go with script: a script loads and steps by itself. "
        "Set it to stop.",
        files={"train.py": "pass\n"},
    ),
    "halving with SyncBatchNorm": Broken(
        with_batch("{global: 8, micro: 2, on_out_of_memory: halve}") + "parallel: {sync_batchnorm: true}\n",
        "recipe.yaml:4: batch.on_out_of_memory: halve does not go with parallel.sync_batchnorm: ranks meet in each "
        "forward pass, where one that runs out of memory leaves the others waiting. Set it to stop.",
    ),
    "auto with exact bits": Broken(
        with_batch("{global: 8, micro: auto}"),
        "recipe.yaml:4: batch.micro: auto does not go with train.determinism: exact bits follow from the micro-batch. "
        "Give a number.",
        overrides=("train.determinism=exact", "train.virtual_ranks=2"),
    ),
    "micro alone": Broken(
        with_batch("{micro: 8}"),
        "recipe.yaml:4: batch: two of global, micro and accumulation are needed, and only micro is given. "
        "Add batch.global, the samples of one update over all ranks.",
    ),
    "three that contradict": Broken(
        with_batch("{global: 8, micro: 3, accumulation: 2}"),
        "recipe.yaml:4: batch: micro 3 × accumulation 2 × 1 rank = 6, not global 8. "
        "Give two of the three, such as batch.accumulation=null, or set batch.global=6.",
    ),
    "three that contradict on two ranks": Broken(
        with_batch("{global: 8, micro: 2, accumulation: 4}"),
        "recipe.yaml:4: batch: micro 2 × accumulation 4 × 2 ranks = 16, not global 8. "
        "Give two of the three, such as batch.accumulation=null, or set batch.global=16.",
        overrides=("launch.nproc_per_node=2",),
    ),
    "accumulation that does not fit": Broken(
        with_batch("{global: 6, accumulation: 4}"),
        "recipe.yaml:4: batch: global 6 cannot be split into 4 micro-steps on 1 rank. Nearest that divide evenly: "
        "batch.global=4 or batch.global=8; or give batch.micro instead of batch.accumulation.",
    ),
    "accumulation with too few samples": Broken(
        with_batch("{global: 3, accumulation: 4}"),
        "recipe.yaml:4: batch: global 3 cannot be split into 4 micro-steps on 2 ranks. Nearest that divide evenly: "
        "batch.global=8; or give batch.micro instead of batch.accumulation.",
        overrides=("launch.nproc_per_node=2",),
    ),
    "batch without bounds": Broken(
        with_batch(f"{{micro: {2**62}, accumulation: 2}}"),
        f"recipe.yaml:4: batch: micro × accumulation × 1 rank = {2**63} samples are too many. "
        "A plan has 2**62 at most.",
    ),
    "dropped tail that is all": Broken(
        with_batch("{global: 8, micro: 2, tail: drop}"),
        "recipe.yaml:4: batch.tail: drop leaves nothing: the data has 7 samples, fewer than batch.global 8. "
        "Set batch.tail=keep, or batch.global=7 or less.",
        overrides=("data.samples=7",),
    ),
    "dropped tail that is all of a stage": Broken(
        with_schedule("{global: 8, updates: 2}"),
        "recipe.yaml:8: batch.schedule.0.global: batch.tail=drop leaves nothing: the data has 7 samples, fewer than 8. "
        "Set batch.tail=keep, or this to 7 or less.",
        overrides=("data.samples=7", "batch.global=4", "batch.tail=drop"),
    ),
    "schedule without a global batch": Broken(
        with_batch("{accumulation: 2, micro: 2, schedule: [{global: 4, updates: 1}]}"),
        "recipe.yaml:4: batch.schedule: needs batch.global, the samples per update from the end of the schedule on. "
        "Give batch.global instead of batch.accumulation, or set batch.schedule=null.",
    ),
    "schedule with one of the batch": Broken(
        with_batch("{micro: 2, schedule: [{global: 4, updates: 1}]}"),
        "recipe.yaml:4: batch: two of global, micro and accumulation are needed, and only micro is given. "
        "Add batch.global, the samples of one update over all ranks.",
    ),
    "stage without length": Broken(
        with_schedule("{global: 2, updates: 1}", "{global: 4}"),
        "recipe.yaml:9: batch.schedule.1: one of updates and samples is needed, to say how long the stage lasts. "
        "Write for example {global: 4, updates: 100}.",
    ),
    "stage with two lengths": Broken(
        with_schedule("{global: 2, updates: 1}", "{global: 4, updates: 1, samples: 9}"),
        "recipe.yaml:9: batch.schedule.1: updates and samples are given; a stage has one length. Keep one of them.",
    ),
    "stage without a global batch": Broken(
        with_schedule("{updates: 1}"),
        "recipe.yaml:8: batch.schedule.0.global: is missing: it must be a whole number of at least 1. Add it.",
    ),
    "stage of no samples": Broken(
        with_schedule("{global: 2, updates: 1}", "{global: 0, updates: 1}"),
        "recipe.yaml:9: batch.schedule.1.global: must be a whole number of at least 1, not 0.",
    ),
    "quoted number in a stage": Broken(
        with_schedule('{global: 2, updates: "1"}'),
        "recipe.yaml:8: batch.schedule.0.updates: must be a whole number of at least 1, not '1'. Write 1.",
    ),
    "misspelt key of a stage": Broken(
        with_schedule("{global: 2, update: 1}"),
        "recipe.yaml:8: batch.schedule.0.update: unknown key. Did you mean batch.schedule.0.updates?",
    ),
    "number for a stage": Broken(
        with_schedule("{global: 2, updates: 1}", "4"),
        "recipe.yaml:9: batch.schedule: entry 2 must be a mapping with the keys global, updates, samples, not 4.",
    ),
    "one stage for a list of them": Broken(
        with_batch("{global: 8, micro: 2, schedule: {global: 4, updates: 1}}"),
        "recipe.yaml:4: batch.schedule: must be a list, each a mapping with the keys global, updates, samples, "
        "not a mapping.",
    ),
    "another trainer's schedule of the batch": Broken(
        f"{RECIPE}rampup_batch_size: [16, 8, 5000]\n",
        "recipe.yaml:6: rampup_batch_size: unknown key. Did you mean batch.schedule?",
    ),
    # Sections that must agree
    "epochs and updates": Broken(
        RECIPE.replace("epochs: 2", "epochs: 2, updates: 5"),
        "recipe.yaml:5: train: epochs and updates are given; a run has one length. "
        "Keep one of them, or unset on the command line: train.epochs=null.",
    ),
    "epochs, updates and samples": Broken(
        RECIPE.replace("epochs: 2", "epochs: 2, updates: 5, samples: 9"),
        "recipe.yaml:5: train: epochs, updates and samples are given; a run has one length. "
        "Keep one of them, or unset on the command line: train.epochs=null train.updates=null.",
    ),
    "no length": Broken(
        RECIPE.replace("epochs: 2", "seed: 2"),
        "recipe.yaml:5: train: one of epochs, updates and samples is needed. Write for example train: {epochs: 20}.",
    ),
    "length unset": Broken(
        RECIPE,
        "recipe.yaml:5: train: one of epochs, updates and samples is needed. Write for example train: {epochs: 20}.",
        overrides=("train.epochs=null",),
    ),
    "scaling without reference": Broken(
        f"{RECIPE}lr_scaling: {{rule: linear}}\n",
        "recipe.yaml:6: lr_scaling.rule: linear needs lr_scaling.reference_batch, the global batch for which "
        "optimizer.lr was chosen. Add it, or set lr_scaling.rule=none.",
    ),
    "momentum with adamw": Broken(
        f"{RECIPE}optimizer: {{momentum: 0.9}}\n",
        "recipe.yaml:6: optimizer.momentum: adamw has no such setting. Use optimizer.betas, or optimizer.name=sgd.",
    ),
    "Nesterov without momentum": Broken(
        f"{RECIPE}optimizer: {{name: sgd, nesterov: true}}\n",
        "recipe.yaml:6: optimizer.nesterov: needs momentum. Write for example optimizer.momentum=0.9.",
    ),
    "BatchNorm of all ranks on a CPU": Broken(
        f"{RECIPE}parallel: {{sync_batchnorm: true}}\nlaunch: {{device: cpu}}\n",
        "recipe.yaml:6: parallel.sync_batchnorm: PyTorch has it on GPUs only. Set it to false, or launch.device=cuda.",
    ),
    "GPU that is not there": Broken(
        f"{RECIPE}launch: {{device: cuda, nproc_per_node: 2}}\n",
        "recipe.yaml:6: launch.device: this machine has no GPU. Set launch.device=cpu.",
    ),
    "ranks without number": Broken(
        f"{RECIPE}launch: {{nodes: 65536, nproc_per_node: 4096}}\n",
        "recipe.yaml:6: launch.nodes: 268,435,456 ranks are too many. A plan has 1,048,576 at most.",
    ),
    # Machines that come and go
    "range of machines that is none": Broken(
        f"{RECIPE}launch: {{nodes: 0:4}}\n",
        'recipe.yaml:6: launch.nodes: must be a whole number from 1 to 65536 or a range of them, such as "1:4", not '
        "'0:4'.",
    ),
    "range of machines upside down": Broken(
        f"{RECIPE}launch: {{nodes: 4:1}}\n",
        'recipe.yaml:6: launch.nodes: 4:1 begins above its end. Write "1:4".',
    ),
    "range of machines beyond reason": Broken(
        f"{RECIPE}launch: {{nodes: 1:257}}\n",
        "recipe.yaml:6: launch.nodes: an elastic run has 256 machines at most. Write a smaller range.",
    ),
    "range of machines for accelerate": Broken(
        f"{RECIPE}launch: {{nodes: 1:4, method: accelerate}}\n",
        "recipe.yaml:6: launch.nodes: accelerate starts a fixed number of machines, not 1:4. Set "
        "launch.method=torchrun, or a number of machines.",
    ),
    "range of machines, and the batch would follow from them": Broken(
        with_batch("{micro: 2, accumulation: 4}") + "launch: {nodes: 1:4}\n",
        "recipe.yaml:6: launch.nodes: 1:4 needs batch.global: without it the batch would follow from the machines. "
        "Give batch.global instead of batch.accumulation.",
    ),
    "range of machines without checkpoints": Broken(
        f"{RECIPE}launch: {{nodes: 1:4}}\ncheckpoint: {{minutes: 0}}\n",
        "recipe.yaml:6: launch.nodes: 1:4 goes on from checkpoints, and the recipe wants none. Set checkpoint.minutes "
        "or checkpoint.every.",
    ),
    "range of machines on which the micro-steps cannot be the same": Broken(
        with_batch("{global: 8, micro: 4, accumulation: 2}") + "launch: {nodes: 1:4, device: cpu}\n",
        "recipe.yaml:4: batch.accumulation: cannot be the same on 1:4 machines. Delete it: it follows from "
        "batch.global and batch.micro.",
    ),
    # Overrides
    "override without =": Broken(
        RECIPE,
        "command line: 'batch.global' is not key=value. Write for example batch.global=256.",
        overrides=("batch.global",),
    ),
    "override without value": Broken(
        RECIPE,
        "command line: batch.global: has no value. Write batch.global=null to unset it.",
        overrides=("batch.global=",),
    ),
    "override of an unknown key": Broken(
        RECIPE, "command line: batch.gobal: unknown key. Did you mean batch.global?", overrides=("batch.gobal=8",)
    ),
    "override that is not YAML": Broken(
        RECIPE,
        "command line: optimizer.betas: '[0.9' is not a value: not YAML: expected ',' or ']'. "
        "Check the indentation, colons, brackets and quotes.",
        overrides=("optimizer.betas=[0.9",),
    ),
    "override below a number": Broken(
        RECIPE,
        "command line: batch.global: must be a whole number of at least 1, not a mapping.",
        overrides=("batch.global.x=5",),
    ),
    # Files
    "duplicate key": Broken(
        f"{RECIPE}batch: {{global: 16}}\n",
        "recipe.yaml:6: batch is given twice, first in line 4. Delete one of the two.",
    ),
    "not YAML": Broken(
        f"{RECIPE}schedule: {{name: cosine\n",
        "recipe.yaml:6: not YAML: expected ',' or '}'. Check the indentation, colons, brackets and quotes.",
    ),
    "tab": Broken("batch:\n\tglobal: 8\n", "recipe.yaml:2: a tab in the indentation. Use spaces."),
    "empty recipe": Broken(
        "", "recipe.yaml:1: a recipe is a mapping of keys to values. Begin with a line such as name: digits."
    ),
    "not text": Broken(b"\x93NUMPY\x01\0v\0", "recipe.yaml:1: the file is not UTF-8. Save it with UTF-8 encoding."),
    "extends a file that is not there": Broken(
        f"{RECIPE}extends: bases.yaml\n",
        "recipe.yaml:6: extends: there is no file bases.yaml. Did you mean base.yaml?",
        files={"base.yaml": RECIPE},
    ),
    "extends a circle": Broken(
        f"{RECIPE}extends: base.yaml\n",
        "base.yaml:1: extends: a circle: recipe.yaml → base.yaml → recipe.yaml. Let each recipe extend a simpler one.",
        files={"base.yaml": "extends: recipe.yaml\n"},
    ),
    "mistake in what is extended": Broken(
        "name: child\nextends: base.yaml\n",
        "base.yaml:4: batch.tail: must be keep or drop, not 'kept'. Did you mean keep?",
        files={"base.yaml": with_batch("{global: 8, micro: 2, tail: kept}")},
    ),
    "recipe that is not there": Broken(
        RECIPE, "recipes.yaml: there is no such file. Did you mean recipe.yaml?", target="recipes.yaml"
    ),
    "recipe like none": Broken(None, "recipe.yaml: there is no such file. Check the path."),
    "folder": Broken(
        None,
        "digits: this is a folder. Name a file in it, such as digits/recipe.yaml.",
        target="digits",
        files={"digits/recipe.yaml": RECIPE, "digits/accelerate.yaml": RECIPE},
    ),
    "file taken for a folder": Broken(
        RECIPE,
        "recipe.yaml/recipe.yaml: cannot be read: Not a directory. Check the path and its permissions.",
        target="recipe.yaml/recipe.yaml",
    ),
    "name that no file has": Broken(
        None,
        f"{'x' * 100}...{'x' * 97}: cannot be read: File name too long. Check the path and its permissions.",
        target="x" * 300,
    ),
    # Several
    "several mistakes, in the order of the file": Broken(
        """name: my digits
task: {entry: task.py:Digit}
batch: {global: 8}
train: {epochs: 2, precision: fp17}
optimizer: {momentum: 0.9}
schedule: {warm_up: 10}
""",
        (
            "command line: launch.nodes: must be a whole number from 1 to 65536 or a range of them, such as "
            '"1:4", not 0.',
            f"recipe.yaml:1: name: {NAME}, not 'my digits'.",
            "recipe.yaml:2: task.entry: /task.py has no class Digit. Did you mean Digits?",
            "recipe.yaml:3: batch: two of global, micro and accumulation are needed, and only global is given. "
            "Add batch.micro, the samples that fit into one forward and backward (auto finds them).",
            "recipe.yaml:4: train.precision: must be fp32, bf16 or fp16, not 'fp17'. Did you mean fp16?",
            "recipe.yaml:5: optimizer.momentum: adamw has no such setting. Use optimizer.betas, or optimizer.name=sgd.",
            "recipe.yaml:6: schedule.warm_up: unknown key. Did you mean schedule.warmup?",
        ),
        overrides=("launch.nodes=0",),
    ),
}


@dataclass
class Deeds:
    """What this process did that others could see, while it was watched."""

    watched: bool = False
    done: list[str] = field(default_factory=list)

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        """An audit hook: Python calls it before it starts a process or opens, makes or removes a file."""
        if not self.watched or any("__pycache__" in str(argument) for argument in arguments):
            return
        writes = (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )
        if writes or event in _DEEDS:
            self.done.append(f"{event} {arguments}")


_DEEDS = {
    "subprocess.Popen",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.exec",
    "os.system",
    "os.mkdir",
    "os.rename",
}
_DEEDS |= {"os.remove", "os.symlink", "os.link", "socket.connect", "shutil.rmtree"}


@pytest.fixture(scope="module")
def all_deeds() -> Deeds:
    deeds = Deeds()
    sys.addaudithook(deeds.hook)  # for good: it can be silenced, not removed
    return deeds


def listing(folder: Path) -> dict[str, bytes | None]:
    """Every file of a folder with its content."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def place(broken: Broken, folder: Path) -> None:
    """Write the files of a broken request."""
    recipe = {} if broken.recipe is None else {"recipe.yaml": broken.recipe}
    write(folder, {"task.py": TASK, **recipe, **broken.files})


@pytest.mark.fault(
    Kind.REQUEST,
    "keys, types, numbers and batches that are wrong",
    by="more than 80 recipes: unknown and doubled keys, wrong types, 0, -1, 2^63, .nan, a batch that does not divide",
    outcome="refused with file, line, rule and cure; nothing is started, opened or written",
)
@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_recipe_is_refused_in_sentences(
    broken: Broken,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    all_deeds: Deeds,
) -> None:
    place(broken, tmp_path)
    before = listing(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sys, "argv", ["launcher", command, broken.target, *broken.overrides])
    all_deeds.done.clear()
    all_deeds.watched = True
    try:
        with pytest.raises(SystemExit) as caught:
            main()
    finally:
        all_deeds.watched = False
    out, err = capsys.readouterr()
    assert err.replace(str(tmp_path), "") == broken.printed
    assert out == ""
    assert caught.value.code == ExitCode.REQUEST
    assert all_deeds.done == []
    assert listing(tmp_path) == before


def test_the_watch_sees_what_it_is_for(tmp_path: Path, all_deeds: Deeds) -> None:
    all_deeds.done.clear()
    all_deeds.watched = True
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "file").write_text("x")
    os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", ""])
    all_deeds.watched = False
    assert [deed.partition(" ")[0] for deed in all_deeds.done] == ["os.mkdir", "open", "os.fork"]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("several mistakes, in the order of the file", ("plan",)),
        ("misspelt key", ("plan", "--json")),
        ("task with a syntax error", ("run",)),
        ("three that contradict", ("run", "--dry-run")),
    ],
)
def test_the_command_itself(name: str, arguments: tuple[str, ...], tmp_path: Path) -> None:
    broken = BROKEN[name]
    place(broken, tmp_path)
    before = listing(tmp_path)
    command, *options = arguments
    done = launcher(command, broken.target, *broken.overrides, *options, cwd=tmp_path)
    assert done.stderr.replace(str(tmp_path), "") == broken.printed
    assert (done.returncode, done.stdout) == (2, "")
    assert listing(tmp_path) == before


def test_the_unbroken_recipe_has_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, {"task.py": TASK, "recipe.yaml": RECIPE})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["launcher", "plan", "recipe.yaml"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    assert "global batch" in capsys.readouterr().out
