"""HTML and SVG as text. What is markup and what is words is told apart by type, so that nothing goes in unescaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import NewType

Markup = NewType("Markup", str)

NOTHING = Markup("")

# Characters that no XML document may hold; terminal colours in an error message begin with one of them.
_FORBIDDEN = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def text(value: object) -> Markup:
    """Words of any origin, as they may stand in a document or in an attribute."""
    return Markup(html.escape(_FORBIDDEN.sub("\ufffd", str(value)), quote=True))


def join(parts: Iterable[Markup]) -> Markup:
    """Markup after markup."""
    return Markup("".join(parts))


def element(name: str, /, *children: Markup, **attributes: object) -> Markup:
    """One element, well-formed as HTML and as XML.

    Args:
        name: the tag.
        children: its content; empty elements close themselves only where HTML lets them.
        attributes: their values; None leaves one out. `class_` stands for `class`, `a_b` for `a-b`, and numbers are
            written as short as a picture allows.
    """
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    opening = name + "".join(f' {key}="{text(_short(value))}"' for key, value in pairs)
    if not children and name in _SELF_CLOSING:
        return Markup(f"<{opening}/>")
    return Markup(f"<{opening}>{''.join(children)}</{name}>")


_SELF_CLOSING = frozenset({"meta", "br", "rect", "line", "circle", "path"})


def _short(value: object) -> object:
    """Numbers to a tenth of a pixel or less; everything else as it is."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
