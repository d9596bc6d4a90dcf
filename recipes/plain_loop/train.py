"""A plain PyTorch training loop with gradient accumulation, as people write it. It does not know the launcher.

It runs alone (`python train.py`), under torchrun, and from a recipe, which sets the LAUNCHER_* variables.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

DATA = Path(__file__).parent.parent / "digits" / "digits.csv.gz"
TRAIN_SAMPLES = 1437

RANK = int(os.environ.get("RANK", "0"))
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", "0"))
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", "1"))

# The numbers of the recipe's plan; the defaults are what it works out for one process.
MICRO_BATCH = int(os.environ.get("LAUNCHER_MICRO_BATCH", "32"))
ACCUMULATION = int(os.environ.get("LAUNCHER_ACCUMULATION", "4"))
LEARNING_RATE = float(os.environ.get("LAUNCHER_LEARNING_RATE", "0.01"))
SEED = int(os.environ.get("LAUNCHER_SEED", "0"))
UPDATES = int(os.environ.get("LAUNCHER_UPDATES", "180"))


def main() -> None:
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", LOCAL_RANK) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if WORLD_SIZE > 1:
        dist.init_process_group("nccl" if cuda else "gloo")

    train, test = load_digits()
    sampler: DistributedSampler[Any] = DistributedSampler(train, WORLD_SIZE, RANK, seed=SEED)
    loader = DataLoader(train, batch_size=MICRO_BATCH, sampler=sampler)

    torch.manual_seed(SEED)
    network = build_network().to(device)
    model: Any = DistributedDataParallel(network) if WORLD_SIZE > 1 else network
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, UPDATES)

    update, epoch = 0, 0
    while update < UPDATES:
        sampler.set_epoch(epoch)
        optimizer.zero_grad()
        for step, (images, digits) in enumerate(loader, start=1):
            boundary = step % ACCUMULATION == 0 or step == len(loader)
            # Gradients are reduced over the ranks once per update: both forward and backward belong into no_sync.
            accumulate = isinstance(model, DistributedDataParallel) and not boundary
            with model.no_sync() if accumulate else nullcontext():
                loss = functional.cross_entropy(model(images.to(device)), digits.to(device))
                # Only approximately right: the short last window of an epoch is divided by ACCUMULATION too.
                (loss / ACCUMULATION).backward()  # type: ignore[no-untyped-call]
            if boundary:
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                update += 1
                if update == UPDATES:
                    break
        epoch += 1

    if RANK == 0:
        print(f"test accuracy {accuracy(network, test, device):.4f} after {update} updates", flush=True)
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
