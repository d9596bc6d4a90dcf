"""Worker of test_own_loop.py: a script with accelerate.Accelerator, as people write it, and an Accumulator in it.

accelerate launch --config_file CONFIG -m tests.rank tests.distributed.accelerated_loop OUT.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DataLoaderConfiguration
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from launcher import Accumulator

SAMPLES = 101
MICRO_STEPS = 3


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(
        torch.randn(SAMPLES, 5, generator=generator, dtype=torch.float64),
        torch.randn(SAMPLES, 1, generator=generator, dtype=torch.float64),
    )


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def of_all_ranks(own: list[Any]) -> list[Any]:
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, own)
    return [batch for of_rank in gathered for batch in of_rank]


def finds_scaler(model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    """Whether the scaler that accelerate has for fp16 scales the losses; on a CPU it has none of its own."""
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    return Accumulator(model, AcceleratedOptimizer(optimizer, scaler=scaler), MICRO_STEPS)._scaler is scaler


def main(out: Path) -> None:
    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(even_batches=False))
    plain, whole = make_model(), make_model()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=100)
    prepared = accelerator.prepare(plain, optimizer, DataLoader(data(), batch_size=4), scheduler)
    model, prepared_optimizer, loader, prepared_scheduler = prepared
    accumulator = Accumulator(model, prepared_optimizer, MICRO_STEPS, prepared_scheduler, max_grad_norm=1.0)
    errors, samples, norms = [], 0, []
    for window in accumulator.windows(loader):
        own = []
        for inputs, targets in window:
            window.backward(nn.functional.mse_loss(model(inputs), targets))
            own.append((inputs, targets))
        inputs, targets = (torch.cat(column) for column in zip(*of_all_ranks(own), strict=True))
        samples += len(inputs)
        whole.load_state_dict(plain.state_dict())
        whole.zero_grad()
        nn.functional.mse_loss(whole(inputs), targets).backward()  # type: ignore[no-untyped-call]
        errors.append(float((gradient(plain) - gradient(whole)).norm() / gradient(whole).norm()))
        norms.append(abs(float(accumulator.step().grad_norm or 0.0) / float(gradient(whole).norm()) - 1))
    result = {
        "accumulation": accelerator.gradient_accumulation_steps,
        "distributed": type(model).__name__,
        "error": max(errors),
        "norm_error": max(norms),
        "samples": samples,
        "windows": len(errors),
        "scheduled": scheduler.last_epoch,
        "batches": len(loader),
        "finds_scaler": finds_scaler(model, optimizer),
    }
    results = of_all_ranks([result])
    if accelerator.is_main_process:
        out.write_text(json.dumps(results))
    accelerator.end_training()
