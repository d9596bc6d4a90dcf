"""What a server has made of an object that it was sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def unknown(sent: Any, schema: dict[str, Any], definitions: dict[str, Any], path: str = "") -> Iterator[str]:
    """The fields of an object that the server does not know.

    Args:
        sent: the object, or a part of it.
        schema: what the server publishes of that.
        definitions: what it publishes of all.
        path: of the part.
    """
    if reference := schema.get("$ref"):
        schema = definitions[reference.rpartition("/")[2]]
    if isinstance(sent, dict):
        for key, value in sent.items():
            inner = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            name = f"{path}.{key}" if path else key
            yield from unknown(value, inner, definitions, name) if inner else [name]
    elif isinstance(sent, list):
        for number, value in enumerate(sent):
            yield from unknown(value, schema["items"], definitions, f"{path}[{number}]")


def schema_of(sent: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """What the server publishes of the kind of an object."""
    group, _, version = sent["apiVersion"].rpartition("/")
    kind = {"group": group, "version": version, "kind": sent["kind"]}
    (schema,) = [one for one in definitions.values() if kind in one.get("x-kubernetes-group-version-kind", ())]
    found: dict[str, Any] = schema
    return found


def lost(sent: Any, held: Any, path: str = "") -> Iterator[str]:
    """The fields of an object that are not in what the server holds of it, or not as they were.

    Args:
        sent: the object, or a part of it.
        held: what the server gives back.
        path: of the part.
    """
    if isinstance(sent, dict) and isinstance(held, dict):
        for key, value in sent.items():
            name = f"{path}.{key}" if path else key
            yield from lost(value, held[key], name) if key in held else [name]
    elif isinstance(sent, list) and isinstance(held, list) and len(sent) == len(held):
        for number, (ours, theirs) in enumerate(zip(sent, held, strict=True)):
            yield from lost(ours, theirs, f"{path}[{number}]")
    elif sent != held:
        yield path
