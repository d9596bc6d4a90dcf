"""A PyTorch training loop of one's own, with an Accumulator in it: recipes/plain_loop, made exact.

It is started from a recipe, whose plan has the numbers.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from launcher import Accumulator

DATA = Path(__file__).parent.parent / "digits" / "digits.csv.gz"
TRAIN_SAMPLES = 1437

RANK = int(os.environ["RANK"])
LOCAL_RANK = int(os.environ["LOCAL_RANK"])
WORLD_SIZE = int(os.environ["WORLD_SIZE"])


def main() -> None:
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", LOCAL_RANK) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if WORLD_SIZE > 1:
        dist.init_process_group("nccl" if cuda else "gloo")

    train, test = load_digits()
    torch.manual_seed(int(os.environ["LAUNCHER_SEED"]))
    network = build_network().to(device)
    model: Any = DistributedDataParallel(network) if WORLD_SIZE > 1 else network
    optimizer = torch.optim.AdamW(model.parameters(), lr=float(os.environ["LAUNCHER_LEARNING_RATE"]))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, int(os.environ["LAUNCHER_UPDATES"]))

    accumulator = Accumulator.from_env(model, optimizer, samples=len(train), scheduler=schedule, max_grad_norm=1.0)
    loader: DataLoader[Any] = DataLoader(train, batch_sampler=accumulator.sampler())  # all epochs, this rank's share
    updates = 0
    for window in accumulator.windows(loader):
        for images, digits in window:
            window.backward(functional.cross_entropy(model(images.to(device)), digits.to(device)))
        accumulator.step()
        updates += 1
        if updates % 30 == 0:
            loss = window.mean_losses()["loss"]  # over all ranks, so all of them ask for it
            if RANK == 0:
                print(f"update {updates}: {window.totals['loss']} samples, loss {loss:.4f}", flush=True)

    if RANK == 0:
        print(f"test accuracy {accuracy(network, test, device):.4f} after {updates} updates", flush=True)
    if WORLD_SIZE > 1:
        dist.destroy_process_group()


def build_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def load_digits() -> tuple[TensorDataset, TensorDataset]:
    """The training and the test data of recipes/digits."""
    rows = np.loadtxt(DATA, delimiter=",", dtype=np.int64)
    rows = rows[np.random.RandomState(0).permutation(len(rows))]
    images = torch.tensor(rows[:, :64] / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    digits = torch.tensor(rows[:, 64])
    return (
        TensorDataset(images[:TRAIN_SAMPLES], digits[:TRAIN_SAMPLES]),
        TensorDataset(images[TRAIN_SAMPLES:], digits[TRAIN_SAMPLES:]),
    )


@torch.no_grad()
def accuracy(network: nn.Module, test: TensorDataset, device: torch.device) -> float:
    images, digits = (column.to(device) for column in test.tensors)
    return float((network(images).argmax(dim=1) == digits).double().mean())


if __name__ == "__main__":
    main()
