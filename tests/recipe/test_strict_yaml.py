"""The subset of YAML that recipes use: what values mean, and what is refused."""

from __future__ import annotations

import time
from typing import Any

import pytest

from launcher.errors import RequestError
from launcher.recipe.strict_yaml import MAX_BYTES, MAX_DEPTH, MAX_EVENTS, parse_document, parse_value
from tests.faults.table import Kind


@pytest.mark.fault(
    Kind.REQUEST,
    "scalars that YAML 1.1 takes for something else",
    by="`1e-4`, `yes`, `0123`, `12:30`, `.nan`",
    outcome="the value that is meant",
)
@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("1e-4", 1e-4),
        ("1E+3", 1000.0),
        ("3.0e-3", 3e-3),
        (".5", 0.5),
        ("-.5e1", -5.0),
        ("2.", 2.0),
        ("0", 0),
        ("-17", -17),
        ("+4", 4),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'8'", "8"),
        ('"1e-4"', "1e-4"),
        ("16-mixed", "16-mixed"),
        ("train.py", "train.py"),
        ("größer", "größer"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(scalar: str, value: Any) -> None:
    for read in (parse_document(f"key: {scalar}\n".encode(), "r.yaml").value["key"], parse_value(scalar, "", "").value):
        assert read == value
        assert type(read) is type(value)


SWITCHES = ["yes", "no", "on", "off", "y", "N", "True1", "nULL", "1e", "e5", ".", "1.2.3", "="]
NUMBERS = ["0123", "0x10", "0o17", "12:30", "1:30:00", "1_000", "1,000", ".nan", ".inf", "-.INF", "nan", "2024-01-01"]


@pytest.mark.parametrize("text", SWITCHES + NUMBERS)
def test_text_that_yaml_1_1_takes_for_something_else_stays_text(text: str) -> None:
    assert parse_document(f"key: {text}\n".encode(), "r.yaml").value == {"key": text}
    assert parse_value(text, "key", "command line").value == text


def test_lines_are_those_of_the_keys() -> None:
    text = "# a comment\nname: x\n\ntask:\n  args:\n    sizes:\n      - 1\n      - 2\nbatch: {global: 8,\n  micro: 2}\n"
    assert parse_document(text.encode(), "r.yaml").lines == {
        "name": 2,
        "task": 4,
        "task.args": 5,
        "task.args.sizes": 6,
        "task.args.sizes.0": 7,
        "task.args.sizes.1": 8,
        "batch": 9,
        "batch.global": 9,
        "batch.micro": 10,
    }


def test_lines_end_in_any_of_the_usual_ways() -> None:
    for ending in ("\n", "\r\n", "\r"):
        parsed = parse_document(ending.join(["name: x", "batch:", "  global: 8", ""]).encode(), "r.yaml")
        assert parsed.value == {"name": "x", "batch": {"global": 8}}
        assert parsed.lines["batch.global"] == 3


@pytest.mark.fault(
    Kind.REQUEST,
    "a byte-order mark",
    by="at the beginning of a recipe",
    outcome="read as if it was not there",
)
def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    assert parse_document(b"\xef\xbb\xbfname: x\n", "r.yaml").value == {"name": "x"}


def test_a_key_may_have_a_dot_without_being_two() -> None:
    assert parse_document(b"a.b: 1\na: {b: 2}\n", "r.yaml").value == {"a.b": 1, "a": {"b": 2}}


BILLION_LAUGHS = "a: &a [lol, lol]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 10)}]\n" for below, name in zip("abcdefgh", "bcdefghi", strict=True)
)
KEYS = "Put quotes around it if it is meant as text."
SYNTAX = "Check the indentation, colons, brackets and quotes."
REFUSED: dict[str, tuple[str | bytes, str]] = {
    "tag": ("name: !!str 5\n", "r.yaml:1: the tag '!!str' is not part of a recipe. Write a plain value."),
    "tag that runs": (
        "a: 1\nb: !!python/object/apply:os.system [ls]\n",
        "r.yaml:2: the tag '!!python/object/apply:os.system' is not part of a recipe. Write a plain value.",
    ),
    "own tag": ("a: !x\n", "r.yaml:1: the tag '!x' is not part of a recipe. Write a plain value."),
    "anchor": ("a: 1\nb: &x 2\n", "r.yaml:2: anchors and aliases are not part of a recipe. Write the value out."),
    "alias": ("a: *x\n", "r.yaml:1: anchors and aliases are not part of a recipe. Write the value out."),
    "billion laughs": (
        BILLION_LAUGHS,
        "r.yaml:1: anchors and aliases are not part of a recipe. Write the value out.",
    ),
    "merge key": ("<<: {a: 1}\n", "r.yaml:1: merge keys are not part of a recipe. Inherit with extends: other.yaml."),
    "duplicate key": ("a: 1\nb: 2\na: 3\n", "r.yaml:3: a is given twice, first in line 1. Delete one of the two."),
    "duplicate key, nested": (
        "batch:\n  micro: 2\n  global: 8\n  micro: 2\n",
        "r.yaml:4: batch.micro is given twice, first in line 2. Delete one of the two.",
    ),
    "duplicate key, quoted": (
        "{a: 1, 'a': 2}\n",
        "r.yaml:1: a is given twice, first in line 1. Delete one of the two.",
    ),
    "brackets": ("[" * 100_000, "r.yaml:1: nested more than 32 deep. A recipe needs a handful of levels."),
    "braces": ("a: " + "{" * 100_000, "r.yaml:1: nested more than 32 deep. A recipe needs a handful of levels."),
    "dashes": ("a:\n " + "- " * 100_000, "r.yaml:2: nested more than 32 deep. A recipe needs a handful of levels."),
    "deep indentation": (
        "\n".join(" " * depth + "a:" for depth in range(700)),
        "r.yaml:33: nested more than 32 deep. A recipe needs a handful of levels.",
    ),
    "many values": ("a: [" + "1," * 25_000 + "]\n", "r.yaml:1: more than 20,000 values. Keep data elsewhere."),
    "large": (
        "a: " + "x" * 300_000,
        "r.yaml: larger than 262,144 bytes, the most that a recipe has. Keep data elsewhere.",
    ),
    "long number": (
        "a: " + "9" * 5_000,
        "r.yaml:1: the number 99999999999999999... is too large. Write one below 1e308.",
    ),
    "large number": ("a: 1\nb: -1e400\n", "r.yaml:2: the number -1e400 is too large. Write one below 1e308."),
    "NUL": ("a: 1\nb: x\0y\n", "r.yaml:2: an invisible character, U+0000. Delete it."),
    "escaped NUL": ('a: 1\nb: "x\\0y"\n', "r.yaml:2: text with the character U+0000. Delete it."),
    "bidi": ("a: 1\r\nb: x\u202ey\n", "r.yaml:2: an invisible character, U+202E. Delete it."),
    "bidi after carriage returns": ("a: 1\rb: x\u202ey\r", "r.yaml:2: an invisible character, U+202E. Delete it."),
    "zero width": ("na\u200bme: x\n", "r.yaml:1: an invisible character, U+200B. Delete it."),
    "line separator": ("name: x\u2028seed: 5\n", "r.yaml:1: a space that is none, U+2028. Type a plain space."),
    "no-break space": ("batch:\u00a0{global: 8}\n", "r.yaml:1: a space that is none, U+00A0. Type a plain space."),
    "second byte-order mark": ("name: x\n\ufeff", "r.yaml:2: an invisible character, U+FEFF. Delete it."),
    "not UTF-8": (b"name: x\ntask: \xff\n", "r.yaml:2: the file is not UTF-8. Save it with UTF-8 encoding."),
    "UTF-16": ("name: x\n".encode("utf-16"), "r.yaml:1: the file is not UTF-8. Save it with UTF-8 encoding."),
    "half a character": (b"name: \xed\xa0\x80\n", "r.yaml:1: the file is not UTF-8. Save it with UTF-8 encoding."),
    "Cyrillic key": (
        "b\u0430tch: {global: 8}\n",
        "r.yaml:1: the key 'b\u0430tch' is not plain ASCII. Type it again.",
    ),
    "escape in a key": ('"\\e[31mred": 1\n', r"r.yaml:1: the key '\x1b[31mred' is not plain ASCII. Type it again."),
    "number as key": ("a: 1\n5: x\n", f"r.yaml:2: a key must be a word. {KEYS}"),
    "list as key": ("? [a]\n: 1\n", f"r.yaml:1: a key must be a word. {KEYS}"),
    "template": ("name: {{ name }}\n", f"r.yaml:1: a key must be a word. {KEYS}"),
    "empty key": ("'': 1\n", f"r.yaml:1: a key must be a word. {KEYS}"),
    "long key": ("? " + "k" * 129 + "\n: 1\n", f"r.yaml:1: a key must be a word. {KEYS}"),
    "several documents": ("a: 1\n---\nb: 2\n", "r.yaml:2: a second document begins here. Keep one recipe in a file."),
    "tab": ("batch:\n\tglobal: 8\n", "r.yaml:2: a tab in the indentation. Use spaces."),
    "tab after spaces": ("batch:\n  global: 8\n  \tmicro: 2\n", "r.yaml:3: a tab in the indentation. Use spaces."),
    "open bracket": (
        "a: 1\nb: [1, 2\nc: 3\n",
        f"r.yaml:3: not YAML: expected ',' or ']', in what begins in line 2. {SYNTAX}",
    ),
    "open quote": (
        'a: "x\nb: 1\n',
        f"r.yaml:2: not YAML: a quote that is not closed, in what begins in line 1. {SYNTAX}",
    ),
    "two colons": ("a: 1\nb: c: d\n", f"r.yaml:2: not YAML: a colon where none can be. {SYNTAX}"),
    "no colon": ("a: 1\nb\nc: 2\n", f"r.yaml:3: not YAML: no colon after the key, in what begins in line 2. {SYNTAX}"),
    "indentation": ("  a: 1\n b: 2\n", f"r.yaml:2: not YAML: the indentation fits no line above. {SYNTAX}"),
    "at sign": ("a: @x\n", "r.yaml:1: a value cannot begin with '@'. Put quotes around it."),
    "list": (
        "- a\n- b\n",
        "r.yaml:1: a recipe is a mapping of keys to values. Begin with a line such as name: digits.",
    ),
    "scalar": ("hello", "r.yaml:1: a recipe is a mapping of keys to values. Begin with a line such as name: digits."),
    "empty": ("", "r.yaml:1: a recipe is a mapping of keys to values. Begin with a line such as name: digits."),
    "comments only": (
        "# nothing\n",
        "r.yaml:1: a recipe is a mapping of keys to values. Begin with a line such as name: digits.",
    ),
}


@pytest.mark.fault(
    Kind.REQUEST,
    "YAML that harms or deceives",
    by="tags that run code, aliases, billion laughs, 100,000 brackets, 300 KB, NUL, bidi, homoglyphs, not UTF-8",
    outcome="refused with its line in less than a second; nothing is run",
)
@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_refused_at_once_with_its_line(content: str | bytes, message: str) -> None:
    raw = content if isinstance(content, bytes) else content.encode()
    began = time.process_time()
    with pytest.raises(RequestError) as caught:
        parse_document(raw, "r.yaml")
    assert time.process_time() - began < 1
    assert str(caught.value) == message


def test_what_is_just_allowed() -> None:
    deep = "a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert parse_document(deep.encode(), "r.yaml").lines["a"] == 1
    large = "a: " + "x" * (MAX_BYTES - 3)
    assert parse_document(large.encode(), "r.yaml").value == {"a": "x" * (MAX_BYTES - 3)}
    values = "a: [" + "1," * (MAX_EVENTS - 10) + "]"  # of the events, a few begin and end the file
    assert len(parse_document(values.encode(), "r.yaml").value["a"]) == MAX_EVENTS - 10
    assert parse_document(("? " + "k" * 128 + "\n: 1").encode(), "r.yaml").value == {"k" * 128: 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", f"'[1, 2' is not a value: not YAML: expected ',' or ']'. {SYNTAX}"),
        ("*x", "'*x' is not a value: anchors and aliases are not part of a recipe. Write the value out."),
        ("!!int 5", "'!!int 5' is not a value: the tag '!!int' is not part of a recipe. Write a plain value."),
        ("{a: 1, a: 2}", "'{a: 1, a: 2}' is not a value: a is given twice, first in line 1. Delete one of the two."),
        ("{1: 2}", f"'{{1: 2}}' is not a value: a key must be a word. {KEYS}"),
        ("x\u202ey", r"'x\u202ey' is not a value: an invisible character, U+202E. Delete it."),
        ("\udcff", r"'\udcff' is not a value: an invisible character, U+DCFF. Delete it."),
        ("9" * 400, f"'{'9' * 56}... is not a value: the number {'9' * 17}... is too large. Write one below 1e308."),
    ],
)
def test_values_of_the_command_line_obey_the_same_rules(text: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_value(text, "task.args.x", "command line")
    assert str(caught.value) == f"command line: task.args.x: {message}"
