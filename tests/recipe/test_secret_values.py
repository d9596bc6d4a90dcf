"""Secrets in recipes are refused, and not shown; what only looks a little like one is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.errors import RequestError
from launcher.recipe.load import load_recipe
from launcher.recipe.secret_values import secrets_in, without_secrets
from tests.faults.table import Kind
from tests.recipe.folder import RECIPE, TASK, write

FORTY = "0123456789abcdef" * 2 + "01234567"
LETTERS = "aB3" * 12
SECRETS: dict[str, tuple[Any, str]] = {
    "W&B key": ({"key": FORTY}, "key"),
    "W&B key in a sentence": ({"note": f"log in with {FORTY}."}, "note"),
    "newer W&B key": ({"x": f"wandb_v1_{LETTERS}"}, "x"),
    "Hugging Face": ({"x": f"hf_{LETTERS}"}, "x"),
    "OpenAI": ({"x": {"y": f"sk-proj-{LETTERS}"}}, "x.y"),
    "GitHub": ({"x": f"ghp_{LETTERS}"}, "x"),
    "AWS": ({"x": "AKIA" + "A1" * 8}, "x"),
    "private key": ({"x": "-----BEGIN OPENSSH PRIVATE KEY-----\nabc"}, "x"),
    "address": ({"url": "postgresql://me:hunter22@db/x"}, "url"),
    "by its name": ({"api_key": "hunter22"}, "api_key"),
    "by the end of its name": ({"s3_secret_access_key": "hunter22"}, "s3_secret_access_key"),
    "token": ({"token": "hunter22"}, "token"),
    "after an option": ({"args": ["--lr", "0.1", "--api-key", "hunter22"]}, "args"),
    "in an option": ({"args": ["--password=hunter22"]}, "args"),
}
NONE: dict[str, Any] = {
    "commit": {"revision": FORTY},
    "commit in an address": {"data": f"hub://set/commit/{FORTY}"},
    "commit after an option": {"args": ["--revision", FORTY]},
    "checksum": {"x": FORTY + FORTY},
    "pad token": {"pad_token": "<|endoftext|>", "tokens": "hunter22"},
    "folder": {"path": "/data/sk-learn-something-long-name", "task-v2": "task-something-long-name-2-With-More"},
    "name of a model": {"x": "hf_transformers_large_model_version_2_of_all"},
    "variable": {"x": "HF_TOKEN", "y": "WANDB_API_KEY"},
    "none given": {"password": "", "api_key": None, "token": 5},
    "option without value": {"args": ["--token", "--lr"]},
    "address": {"url": "https://host:8080/a@b"},
}


@pytest.mark.fault(
    Kind.SECRET, "a secret in a recipe", by="keys and tokens of many kinds, anywhere", outcome="refused, and not shown"
)
@pytest.mark.parametrize(("args", "key"), SECRETS.values(), ids=SECRETS)
def test_a_secret_is_found(args: Any, key: str) -> None:
    (mistake,) = secrets_in({"task": {"args": args}})
    assert mistake.key == f"task.args.{key}"
    assert not any(text in str(mistake) for text in ("hunter22", FORTY, LETTERS, "A1A1", "abc"))


@pytest.mark.parametrize("args", NONE.values(), ids=NONE)
def test_what_is_none(args: Any) -> None:
    assert list(secrets_in({"task": {"args": args}})) == []


@pytest.mark.fault(
    Kind.SECRET, "a secret in a recipe", by="keys and tokens of many kinds, anywhere", outcome="refused, and not shown"
)
@pytest.mark.parametrize(
    ("line", "override", "place"),
    [
        ("optimizer: {{lr: {secret}}}", "", "recipe.yaml:6: optimizer.lr"),
        ("tracking: {{wandb: {{api_key: {secret}}}}}", "", "recipe.yaml:6: tracking.wandb.api_key"),
        ("", "task.args.token={secret}", "command line: task.args.token"),
    ],
)
def test_it_is_refused_with_its_place_and_not_shown(tmp_path: Path, line: str, override: str, place: str) -> None:
    """Also where it would be refused for another reason, which shows the value."""
    secret = f"hf_{LETTERS}"
    write(tmp_path, {"task.py": TASK, "recipe.yaml": RECIPE + line.format(secret=secret)})
    with pytest.raises(RequestError) as refused:
        load_recipe(tmp_path / "recipe.yaml", [override.format(secret=secret)] if override else [])
    assert str(refused.value) == (
        f"{str(tmp_path) + '/' if place[0] == 'r' else ''}{place}: looks like a Hugging Face token, and a recipe is "
        "copied to the run directory and to W&B. Set it in the environment, such as WANDB_API_KEY or HF_TOKEN, and let "
        "the task read it there."
    )


def test_what_is_written_down_has_no_secret_of_the_environment() -> None:
    environ = {"HF_TOKEN": "hunter22", "WANDB_API_KEY": "hunter22-and-more", "PATH": "/usr/bin", "EMPTY_KEY": ""}
    text = "401 for hunter22-and-more, then for hunter22, in /usr/bin"
    assert without_secrets(text, environ) == "401 for ***, then for ***, in /usr/bin"


SENT = [
    *(
        f"launch.kubernetes.env={{{name}: canary}}"
        for name in ("MLFLOW_TRACKING_TOKEN", "AWS_SESSION_TOKEN", "MY_TOKEN")
    ),
    *(f"launch.kubernetes.env={{{name}: canary}}" for name in ("DB_PASS", "MYSQL_PWD", "FTP_PASSWD", "OPENAI_KEY")),
    "launch.kubernetes.env={MY_TOKEN: 31415926}",
    "launch.kubernetes.env=[{name: MY_TOKEN, value: canary}]",
    "launch.skypilot.setup=export WANDB_API_KEY=canary; pip install launcher",
    "launch.skypilot.setup=mine --level 3 --auth-token canary",
    "launch.docker.options={e: MLFLOW_TRACKING_TOKEN=canary}",
    "launch.docker.options={label: MY_TOKEN=canary}",
    "launch.docker.options={label: MY_TOKEN=$canary}",
    "launch.docker.env=[MY_TOKEN=canary]",
    'launch.slurm.options={export: "ALL,A=b,DB_PASS=canary"}',
    "launch.slurm.options={comment: \"MY_TOKEN='canary'\"}",
]


@pytest.mark.fault(
    Kind.SECRET, "a secret in what an engine is sent", by="variables, shell commands and options that are named so",
    outcome="refused, and not shown",
)  # fmt: skip
@pytest.mark.parametrize("override", SENT)
def test_no_engine_is_sent_a_secret(tmp_path: Path, override: str) -> None:
    write(tmp_path, {"task.py": TASK, "recipe.yaml": RECIPE})
    with pytest.raises(RequestError) as refused:
        load_recipe(tmp_path / "recipe.yaml", [override])
    said = str(refused.value)
    assert said.startswith(f"command line: {override.partition('=')[0]}")
    assert "is a secret, and" in said or "=[{" in override
    assert not any(secret in said for secret in ("canary", "31415926"))


@pytest.mark.parametrize(
    "override",
    [
        "task.args={tokenizer: gpt2-large, max_tokens: 1024, pad_token: <endoftext>, eos_token: '</s>'}",
        "launch.kubernetes.env={TOKENIZERS_PARALLELISM: 'false', NO_PROXY_BYPASS: everything, MAX_TOKENS: '1024'}",
        "launch.kubernetes.env={MY_TOKEN: $(OTHER)}",
        'launch.skypilot.setup=export WANDB_API_KEY=$(cat /key) A_TOKEN="$B"; pip install launcher --no-deps; ls a-key',
        "launch.docker.options={label: key=value}",
        "launch.slurm.options={wckey: project}",
    ],
)
def test_what_an_engine_may_be_sent(tmp_path: Path, override: str) -> None:
    write(tmp_path, {"task.py": TASK, "recipe.yaml": RECIPE})
    load_recipe(tmp_path / "recipe.yaml", [override])
