"""The switch between fp32 and TF32, in which GPUs multiply fp32 numbers with the mantissa of fp16."""

from __future__ import annotations

import warnings

import torch


def use_tf32(wanted: bool) -> None:
    """Multiply fp32 matrices, and convolve, in TF32 on GPUs that have it, or in fp32 as it is written.

    Both are said: of itself PyTorch has TF32 for convolutions, and not for matrices.
    """
    with warnings.catch_warnings():
        # There are newer settings; but with them alone, PyTorch refuses its own questions about the older ones.
        warnings.simplefilter("ignore")
        torch.backends.cuda.matmul.allow_tf32 = wanted
        torch.backends.cudnn.allow_tf32 = wanted
