"""What the schema says of a dotted key: its type, its siblings, and what a value must be, in words."""

from __future__ import annotations

import difflib
from functools import cache
from typing import Any

from launcher.recipe.schema import recipe_json_schema


@cache
def _schema() -> dict[str, Any]:
    return recipe_json_schema()


def fragment(key: str) -> dict[str, Any] | None:
    """The part of the JSON Schema that describes a dotted key, or None where the schema has no such key."""
    node = _schema()
    for part in key.split(".") if key else ():
        node = _resolve(node)
        if part in node.get("properties", {}):
            node = node["properties"][part]
        elif part.isdigit() and ("items" in node or "prefixItems" in node):
            node = node.get("items") or node["prefixItems"][min(int(part), len(node["prefixItems"]) - 1)]
        elif node.get("additionalProperties") is True:
            return {}
        else:
            return None
    return _resolve(node)


def children(key: str) -> list[str]:
    """The keys that the schema allows under a dotted key (all top-level keys for an empty one)."""
    return list((fragment(key) or {}).get("properties", {}))


def takes_text(key: str) -> bool:
    """Whether the schema wants text here, so that an override such as `name=123` is not read as a number."""
    node = fragment(key) or {}
    types = {option.get("type") for option in node.get("anyOf", [node])} - {"null"}
    return types == {"string"}


def suggestion(key: str) -> str:
    """The existing dotted key most like an unknown one: a sibling, or the same word elsewhere; empty if none."""
    parent, _, word = key.rpartition(".")
    near = difflib.get_close_matches(word, children(parent), 1, cutoff=0.6)
    if near:
        return f"{parent}.{near[0]}" if parent else near[0]
    elsewhere = [known for known in _all_keys("") if known.rpartition(".")[2] == word]
    return elsewhere[0] if elsewhere else ""


def expectation(node: dict[str, Any]) -> str:
    """What a value must be, in words, as the end of a sentence that begins with "must be"."""
    node = _resolve(node)
    if "anyOf" in node:
        return " or ".join(expectation(option) for option in node["anyOf"] if option.get("type") != "null")
    if "enum" in node or "const" in node:
        return " or ".join(node.get("enum", [node.get("const")]))
    kind = node.get("type", "")
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _range(node)
    if kind == "array":
        length = node.get("minItems")
        return f"a list of {length} values" if length and length == node.get("maxItems") else "a list"
    if kind == "object":
        keys = ", ".join(node.get("properties", {}))
        return f"a mapping with the keys {keys}" if keys else "a mapping"
    if kind == "string":
        return _PATTERNS.get(node.get("pattern", ""), "text")
    return {"boolean": "true or false"}.get(kind, "a value")


_PATTERNS = {
    r"^[^:]+:[A-Za-z_][A-Za-z0-9_]*$": "file.py:Class or package.module:Class",
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$": (
        "1 to 64 letters, digits, dots, dashes or underscores, a letter or digit first"
    ),
}


def _range(node: dict[str, Any]) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    words = []
    if above is not None:
        words.append(f"above {above:g}")
    if low is not None:
        words.append(f"of at least {low}")
    if high is not None and high < 2**53:  # higher bounds only keep the arithmetic from overflowing
        words.append(f"at most {high}")
    if below is not None and below < 2**53:
        words.append(f"below {below}")
    return " " + " and ".join(words) if words else ""


def _all_keys(parent: str) -> list[str]:
    keys = []
    for child in children(parent):
        dotted = f"{parent}.{child}" if parent else child
        keys += [dotted, *_all_keys(dotted)]
    return keys


def _resolve(node: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference, also one behind "or null"."""
    options = [option for option in node.get("anyOf", []) if option.get("type") != "null"]
    if len(options) == 1:
        node = {**options[0], "nullable": True}
    if "$ref" in node:
        return dict(_schema()["$defs"][node["$ref"].rpartition("/")[2]])
    return node
