"""Grids of settings: which runs they are, what they are called, and what is none."""

from __future__ import annotations

import pytest

from launcher.errors import RequestError
from launcher.plan.sweep import grid
from launcher.runners.new_run import is_run_id


def test_every_combination_once_the_last_key_fastest() -> None:
    runs = grid(["optimizer.lr=0.1,0.2", "train.epochs=3", "batch.global=8,16"])
    assert [run.overrides for run in runs] == [
        ("optimizer.lr=0.1", "train.epochs=3", "batch.global=8"),
        ("optimizer.lr=0.1", "train.epochs=3", "batch.global=16"),
        ("optimizer.lr=0.2", "train.epochs=3", "batch.global=8"),
        ("optimizer.lr=0.2", "train.epochs=3", "batch.global=16"),
    ]
    assert runs[1].varied == {"optimizer.lr": "0.1", "batch.global": "16"}
    assert runs[1].run_id == "global-16-lr-0.1-epochs-3"


def test_commas_in_brackets_and_quotes_separate_nothing() -> None:
    runs = grid(["optimizer.betas=[0.9, 0.99],[0.8, 0.9]", 'task.args={a: "x,y", b: [1, 2]}'])
    assert [run.overrides[0] for run in runs] == ["optimizer.betas=[0.9, 0.99]", "optimizer.betas=[0.8, 0.9]"]
    assert {run.overrides[1] for run in runs} == {'task.args={a: "x,y", b: [1, 2]}'}


def test_a_larger_grid_has_the_same_runs_and_more() -> None:
    small, large = (
        {run.run_id for run in grid([f"optimizer.lr={values}", "a.b=x/y,z"])} for values in ("1,2", "3,1,2")
    )
    assert small < large


def test_the_same_settings_are_the_same_run_however_they_are_written() -> None:
    """In another order of the keys, and by another number of the same value; it would begin anew."""
    names = [
        [run.run_id for run in grid(settings)]
        for settings in (
            ["optimizer.lr=0.01,3e-4", "optimizer.betas=[0.9, 0.99]", "batch.global=1024"],
            ["batch.global=1024", "optimizer.betas=[0.9,0.99]", "optimizer.lr=1.0e-2,0.0003"],
        )
    ]
    assert names[0] == names[1]
    assert names[0][0].startswith("global-1024-betas-_0.9_0.99_-lr-0.01-")
    texts = grid(['task.args.x="1",1,1.0,"true",true', "task.name=1,1.0"])
    assert len({run.run_id for run in texts}) == 10
    assert [run.run_id for run in grid(["train.max_grad_norm=1,1e22"])] == ["max_grad_norm-1", "max_grad_norm-1e22"]


def test_names_of_folders_are_all_different() -> None:
    runs = grid(["task.args.path=/a/b,/a_b,_a_b,/a b", f"name={'long' * 30},{'long' * 31}", "a.x=1", "b.x=1,-1"])
    assert len({run.run_id for run in runs}) == len(runs) == 16
    assert all(is_run_id(run.run_id) for run in runs)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([], "there is nothing to vary. Write for example optimizer.lr=0.01,0.003."),
        (["optimizer.lr"], "'optimizer.lr' is not key=a,b. Write for example batch.global=128,256."),
        (["a=1,,2"], "a: has an empty value. Write values with a comma between, or null to unset."),
        (["a=1,2,1"], "a: has a value twice. Write each once."),
        (["optimizer.lr=0.01,1e-2"], "optimizer.lr: has a value twice. Write each once."),
        (["batch.micro=4", "task.args.a=[1,2],[1, 2]"], "task.args.a: has a value twice. Write each once."),
        (["a=1", "a=2"], "a: is given twice. Write all of its values at once, with commas between."),
        ([f"{key}={','.join(map(str, range(30)))}" for key in "abc"], "27,000 runs, and a sweep has 10,000 at most."),
    ],
)
def test_what_is_no_grid_is_refused(settings: list[str], said: str) -> None:
    with pytest.raises(RequestError) as refused:
        grid(settings)
    assert str(refused.value).startswith(f"command line: {said}")
