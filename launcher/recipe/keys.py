"""What the schema says of a dotted key: its type, its siblings, and what a value must be, in words."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from launcher.recipe.docker_section import IMAGE, NETWORK, SHARED_MEMORY
from launcher.recipe.kubernetes_section import DNS_NAME, INSIDE, QUANTITY
from launcher.recipe.ray_section import PROGRAM, RAY_ADDRESS
from launcher.recipe.schema import ENTRY, NAME, NODES, recipe_json_schema
from launcher.recipe.section import VARIABLE
from launcher.recipe.skypilot_section import SKY_WORD
from launcher.recipe.slurm_section import SLURM_MEMORY, SLURM_TIME, SLURM_WORD

# The names that other launchers and trainers have for these keys.
OTHER_WORDS = {
    "batch_size": "batch.global",
    "train_batch_size": "batch.global",
    "global_batch_size": "batch.global",
    "micro_batch_size": "batch.micro",
    "per_device_train_batch_size": "batch.micro",
    "train_micro_batch_size_per_gpu": "batch.micro",
    "accumulation_steps": "batch.accumulation",
    "gradient_accumulation_steps": "batch.accumulation",
    "drop_last": "batch.tail",
    "rampup_batch_size": "batch.schedule",
    "num_epochs": "train.epochs",
    "max_epochs": "train.epochs",
    "num_train_epochs": "train.epochs",
    "max_steps": "train.updates",
    "mixed_precision": "train.precision",
    "gradient_clipping": "train.max_grad_norm",
    "clip_grad_norm": "train.max_grad_norm",
    "learning_rate": "optimizer.lr",
    "warmup_steps": "schedule.warmup",
    "warmup_ratio": "schedule.warmup",
    "num_workers": "data.workers",
    "num_processes": "launch.nproc_per_node",
    "num_machines": "launch.nodes",
    "nnodes": "launch.nodes",
    "backend": "launch.method",
}


@cache
def _schema() -> dict[str, Any]:
    return recipe_json_schema()


def fragment(key: str) -> dict[str, Any] | None:
    """The part of the JSON Schema that describes a dotted key; empty below `task.args`, None for an unknown key."""
    return fragment_at(key.split(".") if key else ())


def fragment_at(path: Iterable[str]) -> dict[str, Any] | None:
    """The same, of a key that is given by its words, which may have dots in them."""
    node = _schema()
    for part in path:
        node = _resolve(node)
        named = [below for pattern, below in node.get("patternProperties", {}).items() if re.search(pattern, part)]
        if part in node.get("properties", {}):
            node = node["properties"][part]
        elif part.isdigit() and ("items" in node or "prefixItems" in node):
            node = node.get("items") or node["prefixItems"][0]  # the places of a list are alike
        elif named:
            node = named[0]
        elif node.get("additionalProperties") is True:
            return {}
        elif isinstance(node.get("additionalProperties"), dict):
            node = node["additionalProperties"]  # whatever the name is
        else:
            return None
    return _resolve(node)


def children(key: str) -> list[str]:
    """The keys that the schema allows under a dotted key (all top-level keys for an empty one)."""
    return list((fragment(key) or {}).get("properties", {}))


@cache
def all_keys(parent: str = "") -> tuple[str, ...]:
    """Every dotted key of the schema, or those below one of them."""
    keys: list[str] = []
    for child in children(parent):
        dotted = f"{parent}.{child}" if parent else child
        keys += [dotted, *all_keys(dotted)]
    return tuple(keys)


def takes_text(key: str) -> bool:
    """Whether the schema wants text here, so that an override such as `name=123` is not read as a number."""
    node = fragment(key) or {}
    types = {option.get("type") for option in node.get("anyOf", [node])} - {"null"}
    return types == {"string"}


def suggestion(key: str) -> str:
    """The existing dotted key most like an unknown one: a synonym, a sibling, or the word elsewhere; empty if none."""
    parent, _, word = key.rpartition(".")
    if word in OTHER_WORDS:
        return OTHER_WORDS[word]
    near = difflib.get_close_matches(word, children(parent), 1, cutoff=0.6)
    if near:
        return f"{parent}.{near[0]}" if parent else near[0]
    words: dict[str, str] = {}
    for known in sorted(all_keys(), key=lambda key: key.count(".")):  # a section before a key of another with its name
        words.setdefault(known.rpartition(".")[2], known)
    elsewhere = difflib.get_close_matches(word, words, 1, cutoff=0.8)
    if elsewhere:
        return words[elsewhere[0]]
    free = [child for child in children(parent) if parent and _takes_any_key(f"{parent}.{child}")]
    return f"{parent}.{free[0]}.{word}" if free else ""


def expectation(node: dict[str, Any], value: Any = None) -> str:
    """What a value must be, in words, as the end of a sentence that begins with "must be".

    Args:
        node: what the schema says of the value.
        value: the value that is wrong; a bound that nobody meets by accident is named only to one who did.
    """
    *most, last = _alternatives(node, value)
    return f"{', '.join(most)} or {last}" if most else last


def name_expectation(node: dict[str, Any]) -> str:
    """What the name of an entry must be, in words, of a mapping whose names are free within bounds.

    Args:
        node: what the schema says of the mapping.
    """
    return " or ".join(_EXPECTED_TEXT.get(pattern, "a word") for pattern in node.get("patternProperties", {"": {}}))


def cure(key: str, node: dict[str, Any], value: Any) -> str:
    """What to write instead of a wrong value, where it can be guessed; empty where the expectation says it all."""
    if value is None:
        return "Give it a value, or delete the key"
    options = _options(node)
    kinds = {option.get("type") for option in options}
    if isinstance(value, str):
        words = [word for option in options for word in _words(option)]
        near = difflib.get_close_matches(value, words, 1, cutoff=0.7)
        if near:
            return f"Did you mean {near[0]}?"
        if kinds == {"boolean"} and value.lower() in _SWITCHES:
            return f"Write {_SWITCHES[value.lower()]}"
        required = _resolve(node).get("required", [])
        if len(required) == 1:
            return f"Write {key}: {{{required[0]}: {value}}}" if value.isprintable() and len(value) < 60 else ""
    if kinds == {"string"} and isinstance(value, int | float) and not any(_words(option) for option in options):
        return "Put quotes around it"
    number = _number_meant(value, whole="number" not in kinds)
    return f"Write {number}" if number is not None and any(_admits(option, number) for option in options) else ""


FAR = 10**6  # a bound from here on only keeps arithmetic from overflowing: it is named to who reached it

_SWITCHES = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
_EXPECTED_TEXT = {
    ENTRY: "file.py:Class or package.module:Class",
    NODES: 'a range of them, such as "1:4"',
    NAME: "1 to 64 letters, digits, dots, dashes or underscores, a letter or digit first",
    RAY_ADDRESS: "an address, such as http://HOST:8265, without a password",
    PROGRAM: "the name or the path of a program",
    IMAGE: "the name of an image",
    NETWORK: "the name of a network",
    SHARED_MEMORY: "a whole number and k, m or g, such as 8g",
    VARIABLE: "the name of a variable, without its value",
    SKY_WORD: "a name as SkyPilot has them: letters, digits and . _ / : @ * -",
    DNS_NAME: "a name as Kubernetes has them: small letters, digits, dots or dashes",
    INSIDE: "a path that begins with /",
    QUANTITY: "a whole number, such as 64Gi",
    SLURM_WORD: "a name as Slurm has them: letters, digits, dots, commas, dashes or underscores",
    SLURM_TIME: 'hours, minutes and seconds, such as "4:00:00", or "2-00:00:00" for two days',
    SLURM_MEMORY: 'a whole number and K, M, G or T, such as 64G, or "0" for all that a machine has',
}


def _number_meant(value: Any, whole: bool) -> int | float | None:
    """The number behind `"8"`, `1_000`, `0123` or `8.0`."""
    if isinstance(value, str) and value.isascii():
        plain = value.replace(",", "") if re.fullmatch(r"[0-9]{1,3}(,[0-9]{3})+", value) else value
        try:
            value = float(plain)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return None if whole else value


def _admits(option: dict[str, Any], number: int | float) -> bool:
    if option.get("type") != "number" and not (option.get("type") == "integer" and isinstance(number, int)):
        return False
    return (
        option.get("minimum", number) <= number <= option.get("maximum", number)
        and ("exclusiveMinimum" not in option or option["exclusiveMinimum"] < number)
        and ("exclusiveMaximum" not in option or number < option["exclusiveMaximum"])
    )


def _options(node: dict[str, Any]) -> list[dict[str, Any]]:
    """The types that a value may have, but for null."""
    node = _resolve(node)
    return [_resolve(option) for option in node.get("anyOf", [node]) if option.get("type") != "null"]


def _words(option: dict[str, Any]) -> list[str]:
    return list(option.get("enum", [option["const"]] if "const" in option else []))


def _alternatives(node: dict[str, Any], value: Any) -> list[str]:
    return [words for option in _options(node) for words in _words(option) or [_described(option, value)]]


def _described(option: dict[str, Any], value: Any) -> str:
    kind = option.get("type", "")
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _range(option, value)
    if kind == "array":
        many = f" of {option['minItems']}" if "minItems" in option else ""
        return f"a list{many}, each {expectation(option.get('items') or option['prefixItems'][0])}"
    if kind == "object":
        keys = ", ".join(option.get("properties", {}))
        return f"a mapping with the keys {keys}" if keys else "a mapping"
    if kind == "string":
        return _EXPECTED_TEXT.get(option.get("pattern", ""), "text")
    return {"boolean": "true or false"}.get(kind, "a value")


def _range(option: dict[str, Any], value: Any) -> str:
    low, high = option.get("minimum"), option.get("maximum")
    above, below = option.get("exclusiveMinimum"), option.get("exclusiveMaximum")
    reached = value if isinstance(value, int | float) else 0
    if high is not None and high >= FAR and reached <= high:
        high = None
    if below is not None and below >= FAR and reached < below:
        below = None
    if low is not None and high is not None:
        return f" from {low:g} to {int(high)}"
    if low is not None and below is not None:
        return f" from {low:g} to below {int(below)}"
    words = [f"above {above:g}"] if above is not None else [f"of at least {low:g}"] if low is not None else []
    if high is not None:
        words.append(f"at most {int(high)}")
    return " " + " and ".join(words) if words else ""


def _takes_any_key(key: str) -> bool:
    return (fragment(key) or {}).get("additionalProperties") is True


def _resolve(node: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference, also one behind "or null"."""
    options = [option for option in node.get("anyOf", []) if option.get("type") != "null"]
    if len(options) == 1:
        node = options[0]
    if "$ref" in node:
        return dict(_schema()["$defs"][node["$ref"].rpartition("/")[2]])
    return node
