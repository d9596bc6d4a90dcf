from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from launcher.errors import RequestError
from tests.processes import ROOT, launcher
from tests.recipes.modules import module_of

RECIPE = ROOT / "recipes" / "imagenet" / "recipe.yaml"
TINY = {"depths": [1, 1], "hidden_sizes": [16, 32], "embedding_size": 8}
COLORS = {"blue": (20, 40, 200), "green": (30, 180, 40), "red": (210, 30, 20)}
SIZES = [(40, 30), (32, 48), (36, 36)]


def write_images(folder: Path, each: int) -> Path:
    """A class is a color, with noise."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for part in ("train", "val"):
        for name, color in COLORS.items():
            (folder / part / name).mkdir(parents=True)
            for number in range(each):
                width, height = SIZES[number % len(SIZES)]
                pixels = np.clip(np.array(color) + generator.normal(0, 40, (height, width, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def imagenet() -> ModuleType:
    return module_of(RECIPE.with_name("task.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), 8)


@pytest.fixture(scope="module")
def task(imagenet: ModuleType, folder: Path) -> Any:
    return imagenet.ImageNet(str(folder), size=32, config=TINY)


def test_classes_are_numbered_in_the_order_of_their_names(task: Any) -> None:
    assert task.classes == ["blue", "green", "red"]
    assert [number for _, number in task.train_data().images] == [0] * 8 + [1] * 8 + [2] * 8
    image, number = task.eval_data()[9]
    assert image.shape == (3, 32, 32)
    assert number == 1
    assert int(image.mean(dim=(1, 2)).argmax()) == 1


def test_a_random_box_is_as_the_paper_says(imagenet: ModuleType) -> None:
    random.seed(0)
    boxes = [imagenet.random_box(400, 300) for _ in range(2000)]
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= 400 + 1e-9
        assert 0 <= top < bottom <= 300 + 1e-9
        assert 3 / 4 - 1e-9 <= (right - left) / (bottom - top) <= 4 / 3 + 1e-9
    areas = [(right - left) * (bottom - top) / 120_000 for left, top, right, bottom in boxes]
    assert 0.079 < min(areas) < 0.1
    assert 0.9 < max(areas) <= 1
    # One that no box of these shapes fits into: the central square.
    random.seed(0)
    assert imagenet.random_box(1, 1000) == imagenet.central_box(1, 1000)


def test_the_central_box_is_224_of_256_pixels(imagenet: ModuleType) -> None:
    assert imagenet.central_box(512, 256) == (144, 16, 368, 240)


def test_training_images_are_drawn_and_validation_images_are_not(task: Any) -> None:
    random.seed(1)
    first, second = (task.train_data()[3][0] for _ in range(2))
    assert not torch.equal(first, second)
    random.seed(1)
    assert torch.equal(task.train_data()[3][0], first)
    assert torch.equal(task.eval_data()[3][0], task.eval_data()[3][0])


def test_half_of_the_images_are_flipped(imagenet: ModuleType, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "a").mkdir()
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[:, :, 0] = np.arange(64) * 4  # brighter to the right
    Image.fromarray(pixels).save(tmp_path / "a" / "one.png")
    images = imagenet.Images(tmp_path, ["a"], 16, augment=True)
    random.seed(0)
    rising = [bool(image[0, 0, -1] > image[0, 0, 0]) for image, _ in (images[0] for _ in range(200))]
    assert 70 < sum(rising) < 130


def test_colors_are_normalized(task: Any) -> None:
    image, _ = task.eval_data()[16]  # red
    values = (
        image * torch.tensor([0.229, 0.224, 0.225])[:, None, None] + torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    )
    expected = torch.tensor(COLORS["red"]) / 255
    assert torch.allclose(values.mean(dim=(1, 2)), expected, atol=0.08)


def test_batchnorm_alone_is_spared_from_weight_decay(task: Any) -> None:
    model = task.model()
    decayed, spared = task.parameter_groups(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all(".normalization." in names[id(parameter)] for parameter in spared["params"])
    assert not any(".normalization." in names[id(parameter)] for parameter in decayed["params"])
    assert spared["weight_decay"] == 0
    assert len(decayed["params"]) + len(spared["params"]) == len(names)
    synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]  # torch's
    assert [len(group["params"]) for group in task.parameter_groups(synchronized)] == [
        len(decayed["params"]),
        len(spared["params"]),
    ]


@pytest.mark.parametrize("kind", ["bottleneck", "basic"])
def test_each_block_begins_as_the_identity(imagenet: ModuleType, folder: Path, kind: str) -> None:
    model = imagenet.ImageNet(str(folder), config={**TINY, "layer_type": kind}).model()
    zeros = [
        name for name, value in model.named_parameters() if name.endswith("normalization.weight") and not value.any()
    ]
    last = 2 if kind == "bottleneck" else 1
    assert zeros == [f"resnet.encoder.stages.{stage}.layers.0.layer.{last}.normalization.weight" for stage in range(2)]
    (linear,) = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
    assert 0.005 < linear.weight.std().item() < 0.02


def test_the_loss_is_the_mean_and_smoothing_changes_it(imagenet: ModuleType, folder: Path, task: Any) -> None:
    torch.manual_seed(0)
    model = task.model().eval()
    images, classes = batch = task.collate([task.eval_data()[index] for index in (0, 9, 20)])
    smooth = imagenet.ImageNet(str(folder), size=32, label_smoothing=0.3, config=TINY)
    with torch.no_grad():
        measured = task.evaluate(model, batch)
        loss, own = float(task.loss(model, batch)), float(model(images, labels=classes).loss)
        spread = -model(images).logits.log_softmax(dim=1).mean()
        assert float(smooth.loss(model, batch)) == pytest.approx(0.7 * loss + 0.3 * float(spread), rel=1e-5)
    assert float(measured["loss"].mean()) == pytest.approx(loss, rel=1e-6)
    assert own == pytest.approx(loss, rel=1e-6)
    assert measured["accuracy"].shape == (3,)


def test_what_is_missing_is_told(
    imagenet: ModuleType, task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError, match=r"task.args.data: there is no folder for a class in .*train. Give a folder"):
        imagenet.ImageNet(str(tmp_path))
    (tmp_path / "train" / "a").mkdir(parents=True)
    with pytest.raises(RequestError, match=r"there is no image in the folders of .*train"):
        imagenet.ImageNet(str(tmp_path))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RequestError, match=r"ResNet-50 needs transformers: .* pip install transformers"):
        task.model()
    monkeypatch.setattr(imagenet, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"images need Pillow, which is not there. pip install pillow"):
        imagenet.ImageNet(str(tmp_path))


def test_the_recipe_knows_its_parameters(imagenet: ModuleType) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    with torch.device("meta"):
        model = ResNetForImageClassification(ResNetConfig(num_labels=1000))
    assert f"parameters: {sum(one.numel() for one in model.parameters())}}}" in RECIPE.read_text()


def test_the_plan_is_that_of_the_paper() -> None:
    from launcher.plan.planner import make_plan
    from launcher.plan.topology import Topology
    from launcher.recipe.load import load_recipe

    recipe = load_recipe(RECIPE).recipe
    plan = make_plan(recipe, Topology(nodes=32, nproc_per_node=8, device="cuda"))
    rate = plan.learning_rate
    epoch = math.ceil(1_281_167 / 8192)
    assert plan.batch.micro_steps == (1,) * 256
    assert rate.peak == pytest.approx(3.2)
    assert rate.warmup_updates == 5 * epoch
    assert rate.drops == (30 * epoch, 60 * epoch, 80 * epoch)
    assert rate.at(plan.length.updates or 0) == pytest.approx(0.0032)
    small = make_plan(
        recipe.model_copy(update={"batch": recipe.batch.model_copy(update={"global_": 256})}), plan.topology
    )
    assert small.learning_rate.peak == pytest.approx(0.1)
    synchronized = load_recipe(RECIPE.with_name("sync.yaml")).recipe
    assert make_plan(synchronized, Topology(nodes=1, nproc_per_node=8, device="cuda")).batch.micro_steps == (128,) * 8


@pytest.mark.long
def test_it_learns_colors(folder: Path, tmp_path: Path) -> None:
    args = json.dumps({"data": str(folder), "size": 32, "label_smoothing": 0.1, "config": TINY})
    done = launcher(
        "run", "recipes/imagenet/sync.yaml", f"task.args={args}", "parallel.sync_batchnorm=false",
        "data.samples=24", "model.parameters=null", "data.workers=1", "batch.global=12", "batch.micro=4",
        "batch.tail=keep", "train.epochs=12", "schedule.warmup=2", "schedule.at=[6, 9]",
        "lr_scaling.reference_batch=12", "eval.every=end", "launch.nproc_per_node=2", "launch.device=cpu",
        "--runs", str(tmp_path), "--run-id", "run", timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = [row["train/learning_rate"] for row in rows]
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, *[0.1] * 8, *[0.01] * 6, *[0.001] * 6])
    assert rows[-1]["train/loss"] < 0.8 * rows[0]["train/loss"]
    assert rows[-1]["eval/accuracy"] > 0.6
    assert "BatchNorm" in done.stdout + done.stderr
