"""What the schema says of a key, in words."""

from __future__ import annotations

import math
from typing import Any

import pytest

from launcher.recipe.keys import OTHER_WORDS, all_keys, children, cure, expectation, fragment, suggestion, takes_text


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("name", "1 to 64 letters, digits, dots, dashes or underscores, a letter or digit first"),
        ("task", "a mapping with the keys entry, args"),
        ("task.entry", "file.py:Class or package.module:Class"),
        ("task.args", "a mapping"),
        ("script.path", "text"),
        ("script.args", "a list, each text"),
        ("batch", "a mapping with the keys global, micro, accumulation, on_out_of_memory, tail, schedule"),
        ("batch.global", "a whole number of at least 1"),
        ("batch.tail", "keep or drop"),
        ("data.workers", "a whole number from 0 to 256"),
        ("parallel.bucket_mb", "a number above 0 and at most 65536"),
        ("train.max_grad_norm", "a number above 0"),
        ("optimizer.weight_decay", "a number of at least 0"),
        ("optimizer.betas", "a list of 2, each a number from 0 to below 1"),
        ("optimizer.nesterov", "true or false"),
        ("schedule.warmup", "a number from 0 to below 1 or a whole number of at least 0"),
        ("schedule.final", "a number from 0 to 1"),
        ("eval.every", "epoch, end or a whole number of at least 1"),
        ("parallel.engine", "ddp, accelerate, deepspeed or fsdp"),
        ("launch.nproc_per_node", "auto or a whole number from 1 to 4096"),
        ("launch.device", "auto, cpu or cuda"),
        ("tracking.wandb.entity", "text"),
    ],
)
def test_expectations_are_words(key: str, words: str) -> None:
    assert expectation(fragment(key) or {}) == words


def test_every_key_has_an_expectation() -> None:
    for key in all_keys():
        words = expectation(fragment(key) or {})
        assert words not in ("", "a value"), key
        assert "None" not in words, key
        assert "null" not in words, key


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("batch.global", 2**63, "a whole number from 1 to 4611686018427387904"),
        ("batch.global", 0, "a whole number of at least 1"),
        ("train.seed", 2**63, "a whole number from 0 to below 9223372036854775808"),
        ("train.seed", -1, "a whole number of at least 0"),
        ("optimizer.lr", 1e10, "a number above 0 and at most 1000000000"),
        ("parallel.timeout", 10**9, "a number above 0 and at most 31536000"),
        ("parallel.timeout", "long", "a number above 0"),
    ],
)
def test_a_bound_out_of_reach_is_named_to_who_reached_it(key: str, value: int, words: str) -> None:
    assert expectation(fragment(key) or {}, value) == words


@pytest.mark.parametrize(
    ("unknown", "known"),
    [
        ("bacth", "batch"),
        ("optimiser", "optimizer"),
        ("batch.globl", "batch.global"),
        ("tracking.wandb.projct", "tracking.wandb.project"),
        ("lr", "optimizer.lr"),
        ("train.lr", "optimizer.lr"),
        ("epochs", "train.epochs"),
        ("wandb", "tracking.wandb"),
        ("max_gradnorm", "train.max_grad_norm"),
        ("gradient_accumulation_steps", "batch.accumulation"),
        ("train.batch_size", "batch.global"),
        ("train.schedule", "schedule"),
        ("rampup_batch_size", "batch.schedule"),
        ("task.hidden", "task.args.hidden"),
        ("zzz", ""),
        ("batch.zzz", ""),
        ("nowhere.zzz", ""),
        ("", ""),
    ],
)
def test_suggestions(unknown: str, known: str) -> None:
    assert suggestion(unknown) == known


def test_the_words_of_others_lead_to_keys_that_exist() -> None:
    assert set(OTHER_WORDS.values()) <= set(all_keys())
    assert not {known.rpartition(".")[2] for known in all_keys()} & set(OTHER_WORDS)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("batch.global", "8", "Write 8"),
        ("batch.global", "1_000", "Write 1000"),
        ("batch.global", "1,000", "Write 1000"),
        ("batch.global", "0123", "Write 123"),
        ("batch.global", 8.0, "Write 8"),
        ("batch.global", 1e3, "Write 1000"),
        ("batch.global", 8.5, ""),
        ("batch.global", "8.5", ""),
        ("batch.global", "0", ""),
        ("batch.global", "1,5", ""),
        ("batch.global", "eight", ""),
        ("batch.global", True, ""),
        ("optimizer.lr", "1e-4", "Write 0.0001"),
        ("train.max_grad_norm", "inf", ""),
        ("optimizer.lr", True, ""),
        ("optimizer.lr", ".nan", ""),
        ("optimizer.lr", "٣", ""),
        ("optimizer.lr", math.nan, ""),
        ("schedule.warmup", 1.5, ""),
        ("schedule.warmup", 2.0, "Write 2"),
        ("launch.nproc_per_node", "4", "Write 4"),
        ("launch.nproc_per_node", "auot", "Did you mean auto?"),
        ("optimizer.name", "adam", "Did you mean adamw?"),
        ("optimizer.name", 5, ""),
        ("optimizer.nesterov", "Yes", "Write true"),
        ("optimizer.nesterov", "off", "Write false"),
        ("optimizer.nesterov", 1, ""),
        ("name", 5, "Put quotes around it"),
        ("task.entry", 5, "Put quotes around it"),
        ("tracking.wandb.group", True, "Put quotes around it"),
        ("task", "task.py:Digits", "Write task: {entry: task.py:Digits}"),
        ("script", "train.py", "Write script: {path: train.py}"),
        ("batch", "256", ""),
        ("optimizer.lr", None, "Give it a value, or delete the key"),
    ],
)
def test_cures(key: str, value: Any, words: str) -> None:
    assert cure(key, fragment(key) or {}, value) == words


def test_what_takes_text() -> None:
    text = {key for key in all_keys() if takes_text(key)}
    assert {"name", "task.entry", "script.path", "optimizer.name", "tracking.wandb.group"} <= text
    assert not {"batch.global", "eval.every", "script.args", "task.args", "task.args.x", "zzz", "optimizer"} & text


def test_keys_of_the_task_are_its_own_business() -> None:
    assert fragment("task.args.anything.at.all") == {}
    assert fragment("optimizer.lr.x") is None
    assert fragment("optimizer.betas.1") == fragment("optimizer.betas.0")
    assert "global" in children("batch")
    assert children("batch.global") == []
