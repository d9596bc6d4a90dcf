"""YAML as recipes use it: 1.2 scalars, plain mappings and lists, nothing that runs, repeats or hides.

YAML 1.1 reads `1e-4` as text, `yes` as a boolean and `12:30` as 750; recipes do not. Tags, anchors, aliases,
duplicate keys and invisible characters are refused, and size and depth are bounded, so that a recipe from
elsewhere can be read without fear.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import yaml

from launcher.errors import Mistake, RequestError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_EVENTS = 20_000


@dataclass(frozen=True)
class Parsed:
    """A YAML document: its value, and the line of every key by dotted path."""

    value: Any
    lines: dict[str, int]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the C loader is optional
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML's own protocol: replaced, never changed


_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?(0|[1-9][0-9]*)[eE][-+]?[0-9]+",
        "-+0123456789.",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
)
for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_pattern})$"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda _, node: float(node.value))


def parse_document(raw: bytes, name: str) -> Parsed:
    """Parse one recipe file.

    Args:
        raw: the bytes of the file, UTF-8, with or without a byte-order mark.
        name: the file as messages name it.

    Raises:
        RequestError: the file is not a mapping in the subset of YAML that recipes use.
    """
    text = _decode(raw, name)
    _check_events(text, name)
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise _yaml_mistake(error, name) from None
    if not isinstance(node, yaml.MappingNode):
        raise _refuse(name, None, "a recipe is a mapping of keys to values", "Begin with a line such as name: digits")
    lines: dict[str, int] = {}
    _check_keys(node, name, "", lines)
    return Parsed(_construct(text), lines)


def parse_scalar(text: str) -> Any:
    """The value of one `key=value` override: a scalar, list or mapping in YAML's flow style.

    Raises:
        ValueError: the text is not such a value.
    """
    try:
        _check_events(text, "")
        return _construct(text)
    except (yaml.YAMLError, RequestError) as error:
        raise ValueError(text) from error


def _construct(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _decode(raw: bytes, name: str) -> str:
    if len(raw) > MAX_BYTES:
        raise _refuse(name, None, f"the file has {len(raw):,} bytes; a recipe has at most {MAX_BYTES:,}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _refuse(name, line, "the file is not UTF-8", "Save it with UTF-8 encoding") from None
    for index, character in enumerate(text):
        if character not in "\n\r\t" and unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs"):
            line = text.count("\n", 0, index) + 1
            raise _refuse(name, line, f"invisible character U+{ord(character):04X}", "Delete it")
    return text


def _check_events(text: str, name: str) -> None:
    """Walk the parser's events, which are flat: a hostile file is refused before anything recurses into it."""
    depth = 0
    try:
        for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
            line = event.start_mark.line + 1 if event.start_mark else 0
            if count > MAX_EVENTS:
                raise _refuse(name, line, f"more than {MAX_EVENTS:,} values")
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise _refuse(name, line, "anchors and aliases are not part of a recipe", "Write the value out")
            tag = getattr(event, "tag", None)
            if tag:
                raise _refuse(name, line, f"the tag {tag} is not part of a recipe", "Write a plain value")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise _refuse(name, line, f"nested more than {MAX_DEPTH} deep")
    except yaml.YAMLError as error:
        raise _yaml_mistake(error, name) from None


def _check_keys(node: yaml.Node, name: str, path: str, lines: dict[str, int]) -> None:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[f"{path}.{index}"] = item.start_mark.line + 1
            _check_keys(item, name, f"{path}.{index}", lines)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            raise _refuse(name, line, "a key must be a word", "Put quotes around it if it is meant as text")
        if not key.value.isascii():
            raise _refuse(name, line, f"the key {key.value!r} has letters that are not ASCII", "Type it again")
        dotted = f"{path}.{key.value}" if path else key.value
        if dotted in lines:
            raise _refuse(
                name, line, f"{dotted} is given twice, first in line {lines[dotted]}", "Delete one of the two"
            )
        lines[dotted] = line
        _check_keys(value, name, dotted, lines)


def _yaml_mistake(error: yaml.YAMLError, name: str) -> RequestError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return _refuse(
        name, mark.line + 1 if mark else None, f"not YAML: {problem}", "Check the indentation and the colons"
    )


def _refuse(name: str, line: int | None, wrong: str, cure: str = "") -> RequestError:
    return RequestError([Mistake("", wrong, cure, f"{name}:{line}" if line else name)])
