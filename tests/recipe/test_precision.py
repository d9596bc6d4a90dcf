"""Which engines go with the keys of number formats and compilation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recipe.folder import RECIPE, load, refusal

EXACT = ("train.determinism=exact", "train.virtual_ranks=2")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ("train.accumulate_dtype=fp32", "parallel.engine=accelerate"),
            "train.accumulate_dtype: adds gradients up in another format than the parameters have, which "
            "parallel.engine=accelerate cannot. Set it back, or parallel.engine=ddp",
        ),
        (
            ("train.compile=true", "parallel.bucket_mb=0.5"),
            "parallel.bucket_mb: train.compile needs at least 1, not 0.5. Delete it, or set train.compile=false.",
        ),
        (
            ("train.compile=true", *EXACT),
            "train.determinism: exact goes without train.compile, which compiles for the shapes that a rank meets",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, overrides: tuple[str, ...], sentence: str) -> None:
    (said,) = refusal(tmp_path, RECIPE, *overrides)
    assert sentence in said


@pytest.mark.parametrize(
    "overrides",
    [
        ("train.compile=true", "parallel.engine=accelerate"),
        ("train.compile=true", "train.accumulate_dtype=fp32", "train.precision=bf16"),
        ("train.accumulate_dtype=fp32", *EXACT),
        ("train.tf32=true", "parallel.engine=fsdp"),
    ],
    ids=" ".join,
)
def test_what_goes_together(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    load(tmp_path, RECIPE, *overrides)
