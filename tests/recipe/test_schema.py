"""Every key has a type, a default or a reason for none, and a line that says what it is for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin

import pytest
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from launcher.recipe.keys import all_keys, children
from launcher.recipe.schema import Recipe, recipe_json_schema
from launcher.recipe.section import Section

ROOT = Path(__file__).parents[2]
# A task or a script without it says nothing to run, and a stage says no batch.
REQUIRED = {"task.entry", "script.path", "batch.schedule.0.global"}
# Nor does a volume without its claim and place, or a secret without its name and key.
REQUIRED |= {f"launch.kubernetes.volumes.0.{key}" for key in ("claim", "path")}
REQUIRED |= {f"launch.kubernetes.secrets.ANY.{key}" for key in ("name", "key")}
SEVERAL = ("batch.schedule.0", "launch.kubernetes.volumes.0", "launch.kubernetes.secrets.ANY")


def sections(kind: type[Section] = Recipe, path: str = "") -> Iterator[tuple[str, type[Section]]]:
    """Every section of the recipe, by dotted key; those of a list or mapping by the key of one."""
    yield path, kind
    for name, field in kind.model_fields.items():
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, Section):
                own = f"{path}.{name}" if path else name
                several = get_origin(field.annotation)
                yield from sections(inner, own + (".0" if several is tuple else ".ANY" if several is dict else ""))


def fields() -> Iterator[tuple[str, FieldInfo]]:
    """Every key of every section."""
    for path, kind in sections():
        for name, field in kind.model_fields.items():
            yield (f"{path}.{field.alias or name}" if path else name), field


FIELDS = dict(fields())


def test_the_walk_finds_all_keys() -> None:
    below = {f"{several}.{key}" for several in SEVERAL for key in children(several)}
    assert set(FIELDS) == (set(all_keys()) - {"extends"}) | below


@pytest.mark.parametrize("key", FIELDS)
def test_every_key_says_what_it_is_for(key: str) -> None:
    words = FIELDS[key].description
    assert words
    assert words.endswith("."), key
    assert words[0].isupper() or words.startswith("auto "), key
    assert len(words) <= 120, key
    assert "\n" not in words


@pytest.mark.parametrize("key", FIELDS)
def test_every_key_has_a_default_or_a_reason_for_none(key: str) -> None:
    assert FIELDS[key].is_required() == (key in REQUIRED)


def test_a_default_is_a_value_that_the_key_may_have() -> None:
    for _, kind in sections():
        if not any(field.is_required() for field in kind.model_fields.values()):
            data = kind().model_dump(by_alias=True)
            assert kind.model_validate(data) == kind()


def test_null_is_the_default_of_every_key_that_may_be_null() -> None:
    nullable = {key for key, field in FIELDS.items() if type(None) in getattr(field.annotation, "__args__", ())}
    assert {key for key in nullable if FIELDS[key].default is not None} == set()  # null unsets, wherever it is written


def test_every_section_is_frozen_strict_and_closed() -> None:
    for path, kind in sections():
        assert kind.__doc__, path
        for setting in ("frozen", "strict"):
            assert kind.model_config.get(setting) is True, path
        assert kind.model_config.get("extra") == "forbid", path


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        setattr(Recipe(), "name", "other")  # noqa: B010  # as an assignment, mypy refuses it already


@pytest.mark.parametrize(
    "data",
    [{"nmae": "x"}, {"batch": {"gloabl": 8}}, {"tracking": {"wandb": {"x": 1}}}, {"extends": "x.yaml"}],
    ids=str,
)
def test_unknown_keys_are_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Recipe.model_validate(data)


@pytest.mark.parametrize(
    "data",
    [
        {"batch": {"global": "8"}},
        {"batch": {"global": 8.0}},
        {"batch": {"global": True}},
        {"batch": {"global": 2**62 + 1}},
        {"batch": [1]},
        {"name": 5},
        {"optimizer": {"lr": "0.1"}},
        {"optimizer": {"lr": True}},
        {"optimizer": {"lr": float("nan")}},
        {"optimizer": {"lr": float("inf")}},
        {"optimizer": {"nesterov": 1}},
        {"optimizer": {"betas": "ab"}},
        {"optimizer": {"betas": [0.9, True]}},
        {"schedule": {"warmup": float("nan")}},
        {"parallel": {"timeout": float("inf")}},
        {"script": {"path": "x", "args": ["a", 1]}},
        {"batch": {"schedule": [{"global": "8", "updates": 1}]}},
        {"batch": {"schedule": {"global": 8, "updates": 1}}},
    ],
    ids=str,
)
def test_nothing_is_converted(data: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate(data)


def test_the_schema_for_editors_is_that_of_the_recipe() -> None:
    written = (ROOT / "recipes" / "recipe.schema.json").read_text()
    assert written == json.dumps(recipe_json_schema(), indent=2) + "\n", (
        "python -m launcher schema > recipes/recipe.schema.json"
    )


def test_the_schema_for_editors_describes_a_file() -> None:
    schema = recipe_json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["additionalProperties"] is False
    assert schema["properties"]["extends"]["type"] == "string"
    assert "global" in schema["$defs"]["BatchSection"]["properties"]
