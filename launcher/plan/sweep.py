"""A grid of settings as runs of one recipe, each with a name that its settings make."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from launcher.errors import Mistake, RequestError, quoted
from launcher.recipe.keys import fragment, takes_text
from launcher.recipe.strict_yaml import parse_value

MOST_RUNS = 10_000
_LONGEST_ID = 100
_COMMAND_LINE = "command line"
_CLOSES = {"[": "]", "{": "}"}


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        run_id: made of its settings, so that the same settings are the same run however the grid grows.
        overrides: its settings as `key.path=value`.
        varied: those that differ from run to run, key → value.
    """

    run_id: str
    overrides: tuple[str, ...]
    varied: dict[str, str]


def grid(settings: Sequence[str]) -> tuple[SweepRun, ...]:
    """Every combination of the values of some keys, the last key varying fastest.

    Args:
        settings: `key.path=a,b,c`; commas within brackets or quotes belong to a value. A key with one value has it in
            each run.

    Raises:
        RequestError: a setting is none, a key is there twice, or there are too many runs.
    """
    values, mistakes = dict[str, list[str]](), list[Mistake]()
    for setting in settings:
        key, equals, text = setting.partition("=")
        found = _values(text)
        if not equals or not key:
            mistakes.append(_mistake("", f"{quoted(setting)} is not key=a,b", "Write for example batch.global=128,256"))
        elif key in values:
            mistakes.append(_mistake(key, "is given twice", "Write all of its values at once, with commas between"))
        elif "" in found:
            mistakes.append(_mistake(key, "has an empty value", "Write values with a comma between, or null to unset"))
        elif len({_plain(key, value) for value in found}) < len(found):
            mistakes.append(_mistake(key, "has a value twice", "Write each once"))
        values.setdefault(key, found)
    if not settings:
        mistakes.append(_mistake("", "there is nothing to vary", "Write for example optimizer.lr=0.01,0.003"))
    if (many := math.prod(map(len, values.values()))) > MOST_RUNS:
        mistakes.append(_mistake("", f"{many:,} runs, and a sweep has {MOST_RUNS:,} at most", "Write fewer values"))
    if mistakes:
        raise RequestError(mistakes)
    varying = [key for key, found in values.items() if len(found) > 1]
    combinations = (dict(zip(values, chosen, strict=True)) for chosen in product(*values.values()))
    return tuple(
        SweepRun(
            run_id=_id_of(chosen),
            overrides=tuple(f"{key}={value}" for key, value in chosen.items()),
            varied={key: chosen[key] for key in varying},
        )
        for chosen in combinations
    )


def _mistake(key: str, wrong: str, cure: str) -> Mistake:
    return Mistake(key, wrong, cure, _COMMAND_LINE)


def _values(text: str) -> list[str]:
    """The values between commas that stand in no brackets and no quotes."""
    values, opened, quote = [""], list[str](), ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in _CLOSES:
            opened.append(_CLOSES[char])
        elif opened and char == opened[-1]:
            opened.pop()
        elif char == "," and not opened:
            values.append("")
            continue
        values[-1] += char
    return [value.strip() for value in values]


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The last word of each key, or all of it where two end alike."""
    last = {key: key.rpartition(".")[2] for key in keys}
    many = Counter(last.values())
    return {key: word if many[word] == 1 else key for key, word in last.items()}


def _plain(key: str, value: str) -> str:
    """A value as it is written in names, the same for the same value: of 0.01 and 1e-2, `0.01`."""
    if takes_text(key):
        return value
    try:
        read = parse_value(value, key, _COMMAND_LINE).value
    except RequestError:  # told with the recipe
        return value
    if isinstance(read, str):
        return value
    if isinstance(read, float):
        whole = repr(read).replace("e+", "e")
        return whole.removesuffix(".0") if fragment(key) else whole  # a task's own code may tell 1.0 from 1
    return json.dumps(read, sort_keys=True, default=str)


def _id_of(chosen: dict[str, str]) -> str:
    """A name for a folder; where it cannot say all, a few digits do that no other settings have.

    The order of the keys is none of the settings.
    """
    names = short_names(chosen)
    said = "-".join(f"{names[key]}-{_plain(key, value)}" for key, value in sorted(chosen.items()))
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", said).lstrip("._-")
    if plain == said and len(plain) <= _LONGEST_ID:
        return plain
    return f"{plain[:_LONGEST_ID].rstrip('._-')}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"
