"""What a dashboard is made of: sections of panels over metrics by name. It says what is shown, and not by what."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

# W&B's own names for the time since a run began: while its processes ran, and by the clock on the wall.
TRAINING_TIME = "_runtime"
WALL_TIME = "_absolute_runtime"
_METRIC = re.compile(r"\$\{([^}]+)\}")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Line(_Part):
    """Metrics of every run as lines.

    Attributes:
        title: what the panel shows.
        x: the metric, or W&B's time, that they are drawn over.
        metrics: those that are drawn.
        formulas: what is drawn instead, worked out from metrics in the form of `quantity`.
        pattern: a regular expression of metrics to draw instead, where their names are not known before.
        log_y: whether the y axis is logarithmic.
    """

    kind: Literal["line"] = "line"
    title: str
    x: str
    metrics: tuple[str, ...] = ()
    formulas: tuple[str, ...] = ()
    pattern: str = ""
    log_y: bool = False

    @property
    def names(self) -> frozenset[str]:
        """The metrics that it needs."""
        return frozenset((self.x, *self.metrics, *(name for one in self.formulas for name in _METRIC.findall(one))))


class Scatter(_Part):
    """Every run as a point: the last value of two metrics.

    Attributes:
        title: what the panel shows.
        x: the metric to the right.
        y: the metric upwards.
    """

    kind: Literal["scatter"] = "scatter"
    title: str
    x: str
    y: str

    @property
    def names(self) -> frozenset[str]:
        """The metrics that it needs."""
        return frozenset((self.x, self.y))


class Bars(_Part):
    """The last value of a metric as bars, a mean over the runs that have the same value of a key of the config.

    Attributes:
        title: what the panel shows.
        metric: the metric.
        by: the key of W&B's config, dotted.
    """

    kind: Literal["bars"] = "bars"
    title: str
    metric: str
    by: str

    @property
    def names(self) -> frozenset[str]:
        """The metrics that it needs."""
        return frozenset((self.metric,))


Panel = Annotated[Line | Scatter | Bars, Field(discriminator="kind")]


class Section(_Part):
    """Panels that answer one question.

    Attributes:
        name: its heading.
        question: that it answers, in a sentence.
        panels: in the order in which they are read.
    """

    name: str
    question: str
    panels: tuple[Panel, ...]


class Dashboard(_Part):
    """All that is shown of a project.

    Attributes:
        project: the W&B project.
        entity: its user or team; None for the default of whoever saves it.
        sections: in the order in which they are read.
    """

    project: str
    entity: str | None
    sections: tuple[Section, ...]

    @property
    def title(self) -> str:
        """What it is called among the workspaces of its project."""
        return f"Effective batch and scaling of {self.project}"

    @property
    def names(self) -> frozenset[str]:
        """The metrics that it needs, without what W&B measures itself."""
        panels = [panel for section in self.sections for panel in section.panels]
        return frozenset(name for panel in panels for name in panel.names if not name.startswith("_"))


def quantity(metric: str) -> str:
    """A metric in a formula."""
    return f"${{{metric}}}"
