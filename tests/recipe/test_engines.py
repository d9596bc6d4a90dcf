"""The table of engines as the README has it: `python -m tests.recipe.test_engines` prints it."""

from __future__ import annotations

from collections.abc import Iterator

from launcher.recipe.engines import engine_table
from tests.processes import ROOT

_REDUCES = {
    "boundary": "once, at the boundary",
    "micro-step": "in every micro-step",
    "choice": "as `defer_reduction` says",
}


def as_markdown() -> Iterator[str]:
    """The table, line by line."""
    columns = (
        "`parallel.engine`",
        "each rank holds",
        "gradients are reduced",
        "unequal micro-steps",
        "`sequential`, `shared`",
        "`prove`",
        "elastic",
        "`exact`",
        "`micro: auto`, `halve`",
    )
    yield f"| {' | '.join(columns)} |"
    yield f"| {' | '.join('---' for _ in columns)} |"
    for name, can in engine_table().items():
        answers = (can.several_backwards, can.proves, can.elastic, can.exact, can.recovers_memory)
        cells = (
            name,
            can.holds,
            _REDUCES[can.reduces],
            "yes" if can.unequal_steps else "filled up",
            *("yes" if answer else "no" for answer in answers),
        )
        yield f"| {' | '.join(cells)} |"


def test_the_readme_has_the_table_that_the_code_reads() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "\n".join(as_markdown()) in readme, "print it by: python -m tests.recipe.test_engines"


if __name__ == "__main__":
    print("\n".join(as_markdown()))
