from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.processes import ROOT
from tests.recipes.modules import module_of

CONTEXT = 64


@pytest.fixture(scope="module")
def bytelm() -> ModuleType:
    return module_of(ROOT / "recipes" / "bytelm" / "task.py")


@pytest.fixture(scope="module")
def documents(bytelm: ModuleType) -> dict[str, bytes]:
    found: dict[str, bytes] = bytelm.read_documents()
    return found


@pytest.fixture(scope="module")
def task(bytelm: ModuleType) -> Any:
    return bytelm.ByteLM(width=32, layers=1, context=CONTEXT, eval_samples=100)


def test_a_document_is_wholly_in_one_part(bytelm: ModuleType, documents: dict[str, bytes]) -> None:
    train, validation = bytelm.split_documents(documents)
    assert sorted(train + validation) == sorted(documents.values())
    assert 0.02 < len(validation) / len(documents) < 0.25
    assert bytelm.pieces_of(train, CONTEXT) == bytelm.ByteLM(32, 1, CONTEXT).train_data()


def test_the_part_of_a_document_hangs_on_its_name_alone(bytelm: ModuleType, documents: dict[str, bytes]) -> None:
    """Another Python has other documents: those with the same name stay where they were."""
    _, validation = bytelm.split_documents({name: name.encode() for name in documents})
    without = {name: name.encode() for name in list(documents)[::2]}
    assert bytelm.split_documents(without)[1] == [name for name in validation if name.decode() in without]


def test_pieces_put_together_are_the_document(bytelm: ModuleType, documents: dict[str, bytes]) -> None:
    for text in documents.values():
        pieces = list(bytelm.cut(text, CONTEXT))
        assert b"".join(piece.text for piece in pieces) == text
        assert all(0 < len(piece.text) <= CONTEXT for piece in pieces)
        before = [piece.text[-1] for piece in pieces[:-1]]
        assert [piece.before for piece in pieces] == [bytelm.START, *before][: len(pieces)]


def test_pieces_end_at_a_blank_line_or_a_line_or_the_limit(bytelm: ModuleType) -> None:
    text = b"ab\n\ncd\nefghijklmn\n"
    assert [piece.text for piece in bytelm.cut(text, 8)] == [b"ab\n\n", b"cd\n", b"efghijkl", b"mn\n"]


def test_evaluation_takes_a_bounded_part_spread_evenly(bytelm: ModuleType, documents: dict[str, bytes]) -> None:
    held_out = bytelm.pieces_of(bytelm.split_documents(documents)[1], CONTEXT)
    some = bytelm.ByteLM(32, 1, CONTEXT, eval_samples=len(held_out) * 2 // 3).eval_data()
    assert len(some) == len(held_out) * 2 // 3
    assert [some[0], some[-1]] == [held_out[0], held_out[-2]]
    assert bytelm.ByteLM(32, 1, CONTEXT, eval_samples=10**9).eval_data() == held_out


def test_lengths_are_unequal(task: Any) -> None:
    lengths = sorted(len(piece.text) for piece in task.train_data())
    assert lengths[len(lengths) // 10] < 0.75 * lengths[9 * len(lengths) // 10]


def test_the_same_data_every_time(bytelm: ModuleType, task: Any) -> None:
    again = bytelm.ByteLM(width=32, layers=1, context=CONTEXT, eval_samples=100)
    assert again.train_data() == task.train_data()
    assert again.eval_data() == task.eval_data()
    assert len(task.eval_data()) == 100


def test_padding_is_no_target_and_no_item(bytelm: ModuleType, task: Any) -> None:
    inputs, targets = batch = task.collate([bytelm.Piece(bytelm.START, b"abc"), bytelm.Piece(10, b"x")])
    assert inputs.tolist() == [[bytelm.START, 97, 98], [10, 0, 0]]
    assert targets.tolist() == [[97, 98, 99], [120, bytelm.IGNORED, bytelm.IGNORED]]
    assert task.items(batch) == 4


def test_the_loss_is_the_mean_over_the_items(task: Any) -> None:
    torch.manual_seed(0)
    model = task.model()
    batch = task.collate(task.train_data()[:7])
    with torch.no_grad():
        losses, weights = task.evaluate(model, batch)["loss"]
        loss = float(task.loss(model, batch))
    assert losses.shape == weights.shape == batch[1].shape
    assert int(weights.sum()) == task.items(batch) < weights.numel()
    assert float((losses * weights).sum() / weights.sum()) == pytest.approx(loss, rel=1e-5)


def test_padding_changes_no_sample(task: Any) -> None:
    torch.manual_seed(0)
    model = task.model()
    short, long = sorted(task.train_data()[:50], key=lambda piece: len(piece.text))[::49]
    (alone, _), (together, _) = task.collate([short]), task.collate([short, long])
    torch.testing.assert_close(model(together)[0, : len(short.text)], model(alone)[0])


def test_a_position_sees_nothing_of_what_comes_after_it(task: Any) -> None:
    torch.manual_seed(0)
    model = task.model()
    inputs = torch.randint(256, (1, CONTEXT))
    changed = inputs.clone()
    changed[0, 20:] = 7
    torch.testing.assert_close(model(changed)[0, :20], model(inputs)[0, :20])
    assert not torch.allclose(model(changed)[0, 20], model(inputs)[0, 20])


def test_the_model_answers_with_a_score_for_each_token(bytelm: ModuleType, task: Any) -> None:
    model = task.model()
    scores = model(torch.zeros(3, 5, dtype=torch.int64)).detach()
    assert scores.shape == (3, 5, bytelm.VOCABULARY)
    uniform = torch.log(torch.tensor(float(bytelm.VOCABULARY)))
    assert float(functional.cross_entropy(scores[0], torch.arange(5))) == pytest.approx(float(uniform), rel=0.2)


def test_only_matrices_decay(task: Any) -> None:
    model = task.model()
    matrices, vectors = task.parameter_groups(model)
    assert "weight_decay" not in matrices
    assert vectors["weight_decay"] == 0
    assert {parameter.ndim for parameter in vectors["params"]} == {1}
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(model.parameters()))


def test_a_python_without_sources_is_told(bytelm: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="without the sources of its standard library"):
        bytelm.read_documents(tmp_path)


def test_what_cannot_be_read_is_skipped(bytelm: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "there.py").write_text("text")
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere.py")
    (tmp_path / "folder.py").mkdir()
    assert bytelm.read_documents(tmp_path) == {"there.py": b"text"}
