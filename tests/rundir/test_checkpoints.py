"""Checkpoints as files: a whole one or none, whatever becomes of the disk and of those who write."""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.rundir.checkpoints import Checkpoints, NoCheckpointError
from launcher.rundir.durable import write_durably
from launcher.rundir.generation import Generation, StaleWriterError, take_over
from launcher.rundir.layout import RunDirectory
from launcher.rundir.manifest import MANIFEST, Manifest, verified
from tests.faults.table import Kind

FILES = {"model.safetensors": b"\0model\xff" * 50, "training.json": b"{}"}


class Said(list[str]):
    """What was said to the user."""

    def __call__(self, sentence: str) -> None:
        self.append(sentence)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path)
    take_over(run)
    return run


def save(store: Checkpoints, update: int, marks: dict[str, str] | None = None, model: bytes = b"") -> Path:
    folder = store.begin(update)
    files = {**FILES, **({"model.safetensors": model} if model else {})}
    facts = {name: write_durably(folder / name, [content]) for name, content in files.items()}
    return store.commit(folder, update, facts, marks).folder


def names(run: RunDirectory) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir())


def test_the_newest_is_found(run: RunDirectory) -> None:
    store = Checkpoints(run, print)
    assert store.newest() is None
    for update in (9, 10, 100_000_000):
        save(store, update)
    assert names(run) == ["step_00000009", "step_00000010", "step_100000000"]
    newest = Checkpoints(run, print).newest()
    assert newest is not None
    assert newest.update == 100_000_000
    assert {path.name: path.read_bytes() for path in newest.folder.iterdir() if path.name != MANIFEST} == FILES


def test_none_is_newer_than_what_the_launch_goes_on_after(run: RunDirectory) -> None:
    store = Checkpoints(run, print)
    for update in (4, 8, 12):
        save(store, update)
    found = Checkpoints(run, print).newest(up_to=8)
    assert found is not None
    assert found.update == 8
    assert Checkpoints(run, print).newest(up_to=3) is None


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.mark.fault(
    Kind.DISK,
    "a bit of a checkpoint flips",
    by="200 times, in any file",
    outcome="set aside and named; the checkpoint before is used",
)
def test_no_flipped_bit_is_loaded(run: RunDirectory) -> None:
    """200 single bits, in every file of the checkpoint."""
    save(Checkpoints(run, print), 1)
    chance = random.Random(0)
    for _ in range(200):
        folder = save(Checkpoints(run, print), 2)
        path = chance.choice(sorted(folder.iterdir()))
        flip(path, chance.randrange(8 * path.stat().st_size))
        said = Said()
        newest = Checkpoints(run, said).newest()
        assert newest is not None
        assert newest.update == 1
        assert "step_00000002 cannot be used: " in said[0]


def link(path: Path) -> None:
    content = path.with_name("elsewhere")
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(content.parent.parent / "elsewhere")


def truncate(share: float) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, int(path.stat().st_size * share))


@pytest.mark.fault(
    Kind.DISK,
    "a file of a checkpoint is damaged",
    by="cut at 0, 10, 50, 99 %; deleted; a link instead",
    outcome="set aside and named; the checkpoint before is used; nothing outside is read and no code is run",
)
@pytest.mark.parametrize("file", [*FILES, MANIFEST])
@pytest.mark.parametrize(
    "harm", [Path.unlink, link, *(truncate(share) for share in (0, 0.1, 0.5, 0.99))], ids=lambda harm: harm.__name__
)
def test_a_damaged_one_is_set_aside_and_named(run: RunDirectory, file: str, harm: Callable[[Path], None]) -> None:
    store = Checkpoints(run, print)
    save(store, 1)
    harm(save(store, 2) / file)
    said = Said()
    newest = Checkpoints(run, said).newest()
    assert newest is not None
    assert newest.update == 1
    assert len(said) == 1
    assert file in said[0]
    assert names(run)[0] == "bad_step_00000002.1"


@pytest.mark.fault(
    Kind.DISK,
    "a manifest that leads elsewhere",
    by="`../outside`, `/etc/passwd`, `..`, `.`, nothing",
    outcome="set aside; nothing outside is read",
)
@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "", ".", ".."])
def test_a_manifest_leads_to_no_file_outside(run: RunDirectory, name: str) -> None:
    folder = save(Checkpoints(run, print), 1)
    manifest = Manifest.from_text((folder / MANIFEST).read_bytes())
    files = {**manifest.files, name: manifest.files["training.json"]}
    (folder / MANIFEST).write_text(Manifest(1, 1, files).to_text())
    with pytest.raises(NoCheckpointError):
        Checkpoints(run, print).newest()


@pytest.mark.fault(
    Kind.DISK,
    "a file too many in a checkpoint",
    by="a pickle that runs a command",
    outcome="set aside; no code is run",
)
def test_a_file_more_is_one_too_many(run: RunDirectory) -> None:
    (save(Checkpoints(run, print), 1) / "model.pkl").write_bytes(b"cos\nsystem\n(S'touch /tmp/x'\ntR.")
    with pytest.raises(NoCheckpointError):
        Checkpoints(run, print).newest()


def test_one_under_another_name_is_not_taken_for_it(run: RunDirectory) -> None:
    folder = save(Checkpoints(run, print), 1)
    folder.rename(folder.with_name("step_00000009"))
    with pytest.raises(NoCheckpointError):
        Checkpoints(run, print).newest()


@pytest.mark.fault(
    Kind.DISK,
    "all checkpoints are bad",
    by="flipped bits",
    outcome="refused, exit code 65; never begun again from the start unasked",
)
def test_where_all_are_bad_nothing_begins_again(run: RunDirectory) -> None:
    flip(save(Checkpoints(run, print), 1) / "training.json", 3)
    for _ in range(2):  # set aside, they are not forgotten
        with pytest.raises(NoCheckpointError, match="Restore one from a copy"):
            Checkpoints(run, print).newest()


def no_longer_readable(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """From now on the system opens no file of a model."""

    def refusing(path: Path, flags: int) -> int:
        if path.name == "model.safetensors":
            raise OSError(number, os.strerror(number))
        return opening(path, flags)

    opening = os.open
    monkeypatch.setattr("launcher.rundir.manifest.os.open", refusing)


@pytest.mark.fault(
    Kind.DISK,
    "the checkpoints cannot be read for a while",
    by="EIO, EACCES, EMFILE, ESTALE",
    outcome="named, exit code 65, nothing is renamed; the next launch goes on",
)
@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE], ids=os.strerror)
def test_an_error_that_passes_sets_nothing_aside(run: RunDirectory, number: int) -> None:
    store = Checkpoints(run, print)
    save(store, 1)
    save(store, 2)
    said = Said()
    with pytest.MonkeyPatch.context() as patch:
        no_longer_readable(patch, number)
        with pytest.raises(NoCheckpointError, match=r"can be used now: .* Try again"):
            Checkpoints(run, said).newest()
    assert f"model.safetensors cannot be read now: {os.strerror(number)}" in said[0]
    assert names(run) == ["step_00000001", "step_00000002"]
    newest = Checkpoints(run, print).newest()
    assert newest is not None
    assert newest.update == 2


def test_where_none_is_left_a_good_one_is_taken_back(run: RunDirectory) -> None:
    folder = save(Checkpoints(run, print), 1)
    folder.rename(folder.with_name("bad_step_00000001.1"))
    said = Said()
    newest = Checkpoints(run, said).newest()
    assert newest is not None
    assert (newest.folder, newest.update) == (folder, 1)
    assert said == ["bad_step_00000001.1 is good after all, and is used"]
    assert names(run) == ["step_00000001"]


def test_a_command_that_reads_renames_nothing(run: RunDirectory) -> None:
    flip(save(Checkpoints(run, print), 1) / "training.json", 3)
    with pytest.raises(NoCheckpointError):
        Checkpoints(run, print).look()
    assert names(run) == ["step_00000001"]
    good = save(Checkpoints(run, print), 2)
    good.rename(good.with_name("bad_step_00000002.1"))
    assert Checkpoints(run, print).look() is not None
    assert names(run) == ["bad_step_00000002.1", "step_00000001"]


def test_old_ones_go_when_newer_ones_are_good(run: RunDirectory) -> None:
    store = Checkpoints(run, print)
    for update in range(1, 6):
        save(store, update)
        store.prune(keep=3)
    assert names(run) == ["step_00000003", "step_00000004", "step_00000005"]
    store.prune(keep=1)
    assert names(run) == ["step_00000004", "step_00000005"]


@pytest.mark.fault(
    Kind.DISK,
    "the disk fails after a checkpoint is written",
    by="EIO where old ones are to be removed",
    outcome="a warning; the new one is kept, and the training goes on",
)
def test_old_ones_that_cannot_be_removed_cost_a_warning(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    said = Said()
    store = Checkpoints(run, said)
    for update in (1, 2, 3):
        save(store, update)

    def failing(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", failing)
        store.prune(keep=2)
    assert said == ["warning: old checkpoints could not be removed: Input/output error"]
    assert names(run) == ["step_00000001", "step_00000002", "step_00000003"]


def test_a_bad_one_does_not_count(run: RunDirectory) -> None:
    store = Checkpoints(run, print)
    for update in (1, 2, 3):
        save(store, update)
    flip(run.checkpoints / "step_00000002" / "model.safetensors", 0)
    Checkpoints(run, print).prune(keep=2)
    assert "step_00000001" in names(run)


@pytest.mark.fault(
    Kind.DIRECTORY,
    "an old writer wakes after another has taken the run over",
    by="a commit of the launch before",
    outcome="refused: it commits nothing",
)
def test_only_the_last_launch_commits(run: RunDirectory) -> None:
    old = Checkpoints(run, print)
    folder = old.begin(1)
    take_over(run)
    with pytest.raises(StaleWriterError, match="taken over by launch 2"):
        old.commit(folder, 1, {})
    assert Checkpoints(run, print).newest() is None


def test_a_stale_writer_begins_nothing_and_clears_nothing_away(run: RunDirectory) -> None:
    old = Checkpoints(run, print)
    take_over(run)
    new = Checkpoints(run, print)
    left = new.begin(2)
    with pytest.raises(StaleWriterError):
        old.begin(1)
    assert left.is_dir()
    take_over(run)
    Checkpoints(run, print).begin(3)
    assert not left.exists()


def test_a_worker_that_was_slow_to_begin_is_of_the_launch_that_started_it(run: RunDirectory) -> None:
    take_over(run)
    slow = Checkpoints(run, print, Generation.from_environ(run, {"LAUNCHER_GENERATION": "1"}))
    with pytest.raises(StaleWriterError, match="launch 1 writes no more"):
        slow.begin(1)
    assert Generation.from_environ(run, {}).own == 2
    told = Generation.from_environ(run, {"LAUNCHER_GENERATION": "1", "LAUNCHER_AFTER": "0"})
    assert (told.own, told.after) == (1, 0)


def test_a_run_taken_over_while_a_checkpoint_is_verified_gets_no_other(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(save(Checkpoints(run, print), 1) / "training.json", 3)
    store = Checkpoints(run, print)
    folder = store.begin(1)

    def slowly(folder: Path) -> Manifest:
        take_over(run)
        return verified(folder)

    monkeypatch.setattr("launcher.rundir.checkpoints.verified", slowly)
    with pytest.raises(StaleWriterError):
        store.commit(folder, 1, {})
    assert "step_00000001" in names(run)


@pytest.mark.fault(
    Kind.DISK,
    "a checkpoint was left half-written",
    by="files without a manifest",
    outcome="no checkpoint; removed by the next one",
)
def test_what_was_left_unfinished_is_cleared_away(run: RunDirectory) -> None:
    store = Checkpoints(run, print)
    (store.begin(1) / "model.safetensors").write_bytes(b"half")
    assert store.newest() is None
    save(store, 2)
    assert names(run) == ["step_00000002"]


def test_the_same_update_can_be_saved_again(run: RunDirectory) -> None:
    store = Checkpoints(run, print)
    save(store, 1)
    save(store, 1)
    assert names(run) == ["step_00000001"]
    assert json.loads((run.checkpoints / "step_00000001" / MANIFEST).read_text())["update"] == 1


@pytest.mark.parametrize("other", [{"model": b"another"}, {"marks": {"recipe": "another"}}], ids=["bits", "recipe"])
def test_an_update_that_was_made_otherwise_takes_the_place_of_the_first(run: RunDirectory, other: Any) -> None:
    save(Checkpoints(run, print), 1)
    folder = save(Checkpoints(run, print), 1, **other)
    assert names(run) == ["bad_step_00000001.1", "step_00000001"]
    assert (folder / "model.safetensors").read_bytes() == other.get("model", FILES["model.safetensors"])
    assert Manifest.from_text((folder / MANIFEST).read_bytes()).marks == other.get("marks", {})
