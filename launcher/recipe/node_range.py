"""How many machines a run may have: a number of them, or from so many to so many."""

from __future__ import annotations

from dataclasses import dataclass

MOST_NODES = 65536
MOST_ELASTIC_NODES = 256  # each number of them is planned before the start, which takes a second


@dataclass(frozen=True)
class NodeRange:
    """The machines of a run.

    Attributes:
        least: below this many it cannot go on.
        most: more than this many are not used.
    """

    least: int
    most: int

    @staticmethod
    def of(nodes: int | str) -> NodeRange:
        """From the value of `launch.nodes`, whose form the schema has checked."""
        if isinstance(nodes, int):
            return NodeRange(nodes, nodes)
        least, _, most = nodes.partition(":")
        return NodeRange(int(least), int(most))

    def __str__(self) -> str:
        return str(self.least) if self.least == self.most else f"{self.least}:{self.most}"
