"""YAML as recipes use it: 1.2 scalars, plain mappings and lists, nothing that runs, repeats or hides.

YAML 1.1 reads `1e-4` as text, `yes` as a boolean and `12:30` as 750; recipes do not. Tags, anchors, aliases,
duplicate keys and invisible characters are refused, and size and depth are bounded, so that a recipe from
elsewhere can be read without fear.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from launcher.errors import Mistake, RequestError, quoted

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_EVENTS = 20_000
MAX_KEY = 128


@dataclass(frozen=True)
class Parsed:
    """A YAML document: its value, and the line of every key by dotted path."""

    value: Any
    lines: dict[str, int] = field(default_factory=dict)


class _RefusedError(Exception):
    """The text is not the YAML that recipes are written in; the line is 0 where it is about the file as a whole."""

    def __init__(self, line: int, wrong: str, cure: str) -> None:
        super().__init__(wrong)
        self.line, self.wrong, self.cure = line, wrong, cure


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the C loader is optional
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML's own protocol: replaced, never changed


SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?(0|[1-9][0-9]*)[eE][-+]?[0-9]+",
        "-+0123456789.",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
)


def resolve_scalars(protocol: Any) -> None:
    """Teach one of PyYAML's loaders or dumpers which plain scalars are not text."""
    for name, pattern, first in SCALARS:
        protocol.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(rf"^(?:{pattern})\Z"), list(first))


resolve_scalars(_Loader)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda _, node: float(node.value))


def parse_document(raw: bytes, name: str, what: str = "a recipe", line: str = "name: digits") -> Parsed:
    """Parse one recipe file, or another that is written as recipes are.

    Args:
        raw: the bytes of the file, UTF-8, with or without a byte-order mark.
        name: the file as messages name it.
        what: what the file should be.
        line: a line of the kind that one begins with.

    Raises:
        RequestError: the file is not a mapping in the subset of YAML that recipes use.
    """
    try:
        parsed = _parse(_decode(raw))
        if not isinstance(parsed.value, dict):
            raise _RefusedError(1, f"{what} is a mapping of keys to values", f"Begin with a line such as {line}")
    except _RefusedError as error:
        where = f"{name}:{error.line}" if error.line else name
        raise RequestError([Mistake("", error.wrong, error.cure, where)]) from None
    return parsed


def parse_value(text: str, key: str, where: str) -> Parsed:
    """Parse the value of one key: a scalar, or a list or mapping in YAML's flow style.

    Args:
        text: the value as it was typed.
        key: the key that it is for.
        where: the place that messages name.

    Raises:
        RequestError: the text is not such a value.
    """
    try:
        _check_characters(text)
        return _parse(text)
    except _RefusedError as error:
        raise RequestError([Mistake(key, f"{quoted(text)} is not a value: {error.wrong}", error.cure, where)]) from None


def check_text(text: str, key: str, where: str) -> None:
    """Refuse text with characters that do not show, as `parse_value` does for a value."""
    try:
        _check_characters(text)
    except _RefusedError as error:
        raise RequestError([Mistake(key, f"{quoted(text)} has {error.wrong}", error.cure, where)]) from None


def _decode(raw: bytes) -> str:
    if len(raw) > MAX_BYTES:
        raise _RefusedError(0, f"larger than {MAX_BYTES:,} bytes, the most that a recipe has", "Keep data elsewhere")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _RefusedError(line, "the file is not UTF-8", "Save it with UTF-8 encoding") from None
    _check_characters(text)
    return text


def _check_characters(text: str) -> None:
    """Refuse characters that do not show, or that show as a space or a line break without being one."""
    for index, character in _hidden_characters(text):
        line = len(re.findall(r"\r\n?|\n", text[:index])) + 1
        space = unicodedata.category(character).startswith("Z")
        what = "a space that is none" if space else "an invisible character"
        cure = "Type a plain space" if space else "Delete it"
        raise _RefusedError(line, f"{what}, U+{ord(character):04X}", cure)


def has_hidden_characters(text: str) -> bool:
    """Whether a recipe with this text would be refused for characters that do not show."""
    return any(_hidden_characters(text))


def _hidden_characters(text: str) -> Iterator[tuple[int, str]]:
    for found in re.finditer(r"[^ -~\n\r\t]", text):
        if unicodedata.category(found.group()) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp", "Zs"):
            yield found.start(), found.group()


def _parse(text: str) -> Parsed:
    try:
        _check_events(text)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return Parsed(None)
            lines: dict[str, int] = {}
            _check_nodes(node, "", lines)
            return Parsed(loader.construct_document(node), lines)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise _in_plain_words(error, text) from None


def _check_events(text: str) -> None:
    """Walk the parser's events, which are flat: a hostile file is refused before anything recurses into it."""
    depth = documents = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if count > MAX_EVENTS:
            raise _RefusedError(line, f"more than {MAX_EVENTS:,} values", "Keep data elsewhere")
        documents += isinstance(event, yaml.DocumentStartEvent)
        if documents > 1:
            raise _RefusedError(line, "a second document begins here", "Keep one recipe in a file")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _RefusedError(line, "anchors and aliases are not part of a recipe", "Write the value out")
        tag = getattr(event, "tag", None)
        if tag:
            shown = quoted(tag.replace("tag:yaml.org,2002:", "!!"))
            raise _RefusedError(line, f"the tag {shown} is not part of a recipe", "Write a plain value")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _nested_too_deep(line)


def _check_nodes(node: yaml.Node, path: str, lines: dict[str, int]) -> None:
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[f"{path}.{index}"] = item.start_mark.line + 1
            _check_nodes(item, f"{path}.{index}", lines)
    else:
        _check_mapping(node, path, lines)


def _check_mapping(node: yaml.Node, path: str, lines: dict[str, int]) -> None:
    first: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        is_text = isinstance(key, yaml.ScalarNode) and key.tag == "tag:yaml.org,2002:str"
        if not is_text or not 0 < len(key.value) <= MAX_KEY:
            raise _RefusedError(line, "a key must be a word", "Put quotes around it if it is meant as text")
        if not (key.value.isascii() and key.value.isprintable()):
            raise _RefusedError(line, f"the key {quoted(key.value)} is not plain ASCII", "Type it again")
        if key.value == "<<":
            raise _RefusedError(line, "merge keys are not part of a recipe", "Inherit with extends: other.yaml")
        dotted = f"{path}.{key.value}" if path else key.value
        if key.value in first:
            wrong = f"{dotted} is given twice, first in line {first[key.value]}"
            raise _RefusedError(line, wrong, "Delete one of the two")
        first[key.value] = lines[dotted] = line
        _check_nodes(value, dotted, lines)


def _check_scalar(node: yaml.ScalarNode) -> None:
    """Refuse numbers that no computer number holds, and text that no file name, argument or JSON holds."""
    line = node.start_mark.line + 1
    if node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float") and math.isinf(float(node.value)):
        shown = node.value if len(node.value) <= 20 else f"{node.value[:17]}..."
        raise _RefusedError(line, f"the number {shown} is too large", "Write one below 1e308")
    unfit = re.search("[\0\ud800-\udfff]", node.value)
    if unfit:
        raise _RefusedError(line, f"text with the character U+{ord(unfit.group()):04X}", "Delete it")


def _nested_too_deep(line: int) -> _RefusedError:
    return _RefusedError(line, f"nested more than {MAX_DEPTH} deep", "A recipe needs a handful of levels")


def _in_plain_words(error: yaml.YAMLError, text: str) -> _RefusedError:
    """A parser's complaint as a sentence about a line."""
    text_lines = text.splitlines() or [""]
    mark, begun = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    line = min(mark.line + 1 if mark else 1, len(text_lines))
    if re.match(r" *\t", text_lines[line - 1]):
        return _RefusedError(line, "a tab in the indentation", "Use spaces")
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if "nesting depth" in problem:  # PyYAML 6.0.4 has a limit of its own, and meets it before the first event
        return _nested_too_deep(line)
    if "cannot start any token" in problem and mark and mark.line < len(text_lines):
        character = text_lines[mark.line][mark.column : mark.column + 1]
        return _RefusedError(line, f"a value cannot begin with {character!r}", "Put quotes around it")
    plain = _PROBLEMS.get(problem, problem.replace("did not find expected", "expected"))
    wrong = f"not YAML: {plain}"
    if begun and begun.line + 1 < line:
        wrong += f", in what begins in line {begun.line + 1}"
    return _RefusedError(line, wrong, "Check the indentation, colons, brackets and quotes")


_PROBLEMS = {
    "mapping values are not allowed in this context": "a colon where none can be",
    "could not find expected ':'": "no colon after the key",
    "did not find expected key": "neither a key nor the end of a value",
    "did not find expected <document start>": "the indentation fits no line above",
    "did not find expected node content": "no value where one must be",
    "found unexpected end of stream": "a quote that is not closed",
}
