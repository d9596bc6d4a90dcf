"""The loss scale of fp16 under DeepSpeed, which multiplies and divides itself."""

from __future__ import annotations

from typing import Any

import torch

_ITS_OWN = ("cur_iter", "last_overflow_iter", "cur_hysteresis")


class ZeroScaler(torch.amp.GradScaler):
    """Leaves losses as they are, and keeps the state of DeepSpeed's scale in the form of torch's, which others read.

    Args:
        device: the device of the losses.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device.type, enabled=False)
        self._its: Any = None

    def follow(self, zero: Any) -> None:
        """Keep the scale of DeepSpeed's optimizer, if it has one that changes."""
        scaler = getattr(zero, "loss_scaler", None)
        self._its = scaler if getattr(scaler, "dynamic", False) else None

    def state_dict(self) -> dict[str, Any]:
        """The scale; empty where none is used."""
        if self._its is None:
            return {}
        return {
            "scale": float(self._its.cur_scale),
            "growth_factor": float(self._its.scale_factor),
            "backoff_factor": 1 / float(self._its.scale_factor),
            "growth_interval": int(self._its.scale_window),
            "_growth_tracker": max(0, self._its.cur_iter - self._its.last_overflow_iter - 1),
            "deepspeed": {name: getattr(self._its, name) for name in _ITS_OWN},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a scale, of DeepSpeed's own or of torch's."""
        if self._its is None or not state_dict:
            return
        self._its.cur_scale = state_dict["scale"]
        for name, value in state_dict.get("deepspeed", {}).items():
            setattr(self._its, name, value)
