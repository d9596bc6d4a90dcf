"""From names in a recipe to objects: only tasks are made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.recipe.schema import TaskSection
from launcher.worker.components import load_task
from tests.faults.table import Kind


@pytest.mark.fault(
    Kind.REQUEST, "an entry that runs a command", by="`os:system`, with a command", outcome="refused; it is not called"
)
def test_what_is_no_task_is_not_called(tmp_path: Path) -> None:
    command = {"command": f"touch {tmp_path / 'ran'}"}
    with pytest.raises(TypeError, match=r"os:system is not a launcher\.Task"):
        load_task(TaskSection(entry="os:system", args=command))
    assert list(tmp_path.iterdir()) == []
