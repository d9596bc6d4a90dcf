from __future__ import annotations

import sys
from pathlib import Path

import pytest

from launcher.worker.upload import main
from tests.faults.table import Kind


@pytest.mark.fault(
    Kind.DISK,
    "the plan of a run is damaged when it is synced",
    by="an empty file; half of it; other keys",
    outcome="refused in a sentence, exit code 2",
)
@pytest.mark.parametrize("text", ["", '{"recipe": {', "{}"])
def test_a_damaged_plan_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "plan.json").write_text(text)
    monkeypatch.setattr(sys, "argv", ["upload", str(tmp_path)])
    assert main() == 2
    said = capsys.readouterr().err
    assert said.startswith(f"launcher: {tmp_path}/plan.json is damaged, or was written by another version of launcher.")
    assert said.count("\n") == 1
