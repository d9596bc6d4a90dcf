"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

UNKNOWN = "–"


def count(value: float | None) -> str:
    """A whole number with its thousands set apart; a dash when it is not known."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def number(value: float | None, digits: int = 4) -> str:
    """A measured number to `digits` significant digits, without an exponent where it reads well without."""
    if value is None:
        return UNKNOWN
    if value and not 1e-4 <= abs(value) < 1e15:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        short = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{short}e{int(exponent)}"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def amount(value: float, digits: int = 3) -> str:
    """A number to `digits` significant digits, with k, M or G where it is large."""
    return _scaled(value, ("", "k", "M", "G", "T", "P"), digits)


def size(value: float, digits: int = 3) -> str:
    """Bytes to `digits` significant digits in B, kB, MB and so on, each a thousand of the one before."""
    return _scaled(value, (" B", " kB", " MB", " GB", " TB", " PB"), digits)


def _scaled(value: float, units: tuple[str, ...], digits: int) -> str:
    if abs(value) < 1000:
        return number(value, digits) + units[0]
    rank = min(int(math.log10(abs(value)) / 3 + 1e-9), len(units) - 1)
    return number(value / 1000**rank, digits) + units[rank]


def share(part: float, whole: float) -> str:
    """A part in per cent of the whole."""
    return f"{part / whole:.1%}" if whole else UNKNOWN


def duration(seconds: float) -> str:
    """A time span in its two largest units."""
    if seconds < 60:
        return f"{number(seconds, 3)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def plural(how_many: float, thing: str) -> str:
    """So many things, such as `1 rank` and `2 ranks`.

    Args:
        how_many: a whole number.
        thing: what one of them is called.
    """
    ending = "" if how_many == 1 else ("es" if thing.endswith(("ch", "ss")) else "s")
    return f"{count(how_many)} {thing}{ending}"


def least_or_most(numbers: Sequence[int]) -> str:
    """Numbers that differ by one at most, such as the micro-steps of the ranks: `3`, or `2 or 3`."""
    least, most = min(numbers), max(numbers)
    return count(most) if least == most else f"{count(least)} or {count(most)}"


def sentence(said: str) -> str:
    """The words with a full stop."""
    return said if said.endswith((".", "!", "?", ":")) else said + "."
