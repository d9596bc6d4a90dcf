"""ResNet-50 on images in a folder for each class, as Goyal et al. 2017 train it (arXiv:1706.02677)."""

from __future__ import annotations

import math
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from launcher import Task
from launcher.errors import Mistake, RequestError

HERE = Path(__file__).parent
KINDS = {".jpeg", ".jpg", ".png", ".webp"}
MEAN, SPREAD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of each color over ImageNet, values from 0 to 1
ENLARGED = 256 / 224  # the shorter side of an image to evaluate on, beside that of its central crop


class ImageNet(Task):
    """Recognise what is in an image.

    Args:
        data: a folder with train and val, each with a folder of images for each class; a relative path starts here.
        size: pixels of a side of what the model sees.
        label_smoothing: share of the target that is spread over all classes.
        config: what differs from the ResNetConfig of ResNet-50, such as depths.
    """

    def __init__(
        self, data: str = "data", size: int = 224, label_smoothing: float = 0.0, config: dict[str, Any] | None = None
    ) -> None:
        if find_spec("PIL") is None:
            raise RequestError([Mistake("task", "images need Pillow, which is not there", "pip install pillow")])
        self.label_smoothing, self.config = label_smoothing, config or {}
        self.classes = classes_of(HERE / data / "train")
        self.train = Images(HERE / data / "train", self.classes, size, augment=True)
        self.validation = Images(HERE / data / "val", self.classes, size, augment=False)

    def model(self) -> nn.Module:
        try:
            from transformers import ResNetConfig, ResNetForImageClassification  # here, as this takes seconds
        except ImportError as missing:
            wrong = f"ResNet-50 needs transformers: {missing}"
            raise RequestError([Mistake("task", wrong, "pip install transformers")]) from missing
        model: nn.Module = ResNetForImageClassification(ResNetConfig(num_labels=len(self.classes), **self.config))
        start_as_the_paper(model)
        return model

    def train_data(self) -> Images:
        return self.train

    def eval_data(self) -> Images:
        return self.validation

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        images, classes = batch
        return functional.cross_entropy(model(images).logits, classes, label_smoothing=self.label_smoothing)

    def evaluate(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        images, classes = batch
        scores = model(images).logits
        return {  # one number per image each; accuracy is top-1
            "accuracy": (scores.argmax(dim=1) == classes).float(),
            "loss": functional.cross_entropy(scores, classes, reduction="none"),
        }

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Weight decay for all but BatchNorm's scale and shift (section 5.1 of the paper)."""
        norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm)]
        spared = [parameter for layer in norms for parameter in layer.parameters()]
        known = {id(parameter) for parameter in spared}
        decayed = [parameter for parameter in model.parameters() if id(parameter) not in known]
        return [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]


def start_as_the_paper(model: nn.Module) -> None:
    """Each residual block begins as the identity, and the last layer small (section 5.1); the rest as in He et al."""
    for block in model.modules():
        if type(block).__name__ in ("ResNetBottleNeckLayer", "ResNetBasicLayer"):
            last = [layer for layer in block.get_submodule("layer").modules() if isinstance(layer, nn.BatchNorm2d)][-1]
            nn.init.zeros_(last.weight)
        elif isinstance(block, nn.Linear):
            nn.init.normal_(block.weight, std=0.01)
            nn.init.zeros_(block.bias)


class Images:
    """Images and their classes.

    Args:
        folder: a folder for each class.
        classes: their names, in order.
        size: pixels of a side.
        augment: whether to crop and to flip at random, differently in each epoch.
    """

    def __init__(self, folder: Path, classes: list[str], size: int, augment: bool) -> None:
        self.size, self.augment = size, augment
        self.images = [
            (str(path), number)
            for number, name in enumerate(classes)
            for path in sorted((folder / name).glob("*"))
            if path.suffix.lower() in KINDS
        ]
        if not self.images:
            raise unusable(f"there is no image in the folders of {folder}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """The image, [3, size, size], and the number of its class."""
        from PIL import Image

        path, number = self.images[index]
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        box = random_box(*image.size) if self.augment else central_box(*image.size)
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        if self.augment and random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image, dtype=np.float32) / 255)
        return ((pixels - torch.tensor(MEAN)) / torch.tensor(SPREAD)).permute(2, 0, 1).contiguous(), number


def random_box(width: int, height: int) -> tuple[float, float, float, float]:
    """A part of an image: 8 to 100 % of its area, 3:4 to 4:3 in shape (Szegedy et al. 2015, "Going Deeper ...")."""
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        shape = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        wide, high = math.sqrt(area * shape), math.sqrt(area / shape)
        if wide <= width and high <= height:
            left, top = random.uniform(0, width - wide), random.uniform(0, height - high)
            return left, top, left + wide, top + high
    return central_box(width, height)


def central_box(width: int, height: int) -> tuple[float, float, float, float]:
    """The central square of an image, 224 of each 256 pixels of its shorter side."""
    side = min(width, height) / ENLARGED
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def classes_of(folder: Path) -> list[str]:
    """The names of the classes, in the order of their numbers."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not classes:
        raise unusable(f"there is no folder for a class in {folder}")
    return classes


def unusable(why: str) -> RequestError:
    cure = "Give a folder with train/CLASS/*.JPEG and val/CLASS/*.JPEG, such as that of ImageNet (ILSVRC 2012)"
    return RequestError([Mistake("task.args.data", why, cure)])
