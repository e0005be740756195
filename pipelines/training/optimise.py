"""One step of an optimiser: its rate, its gradient, and what mixed precision needs around it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.training.settings import TrainJob
from pipelines.training.world import World
from vqvdm.errors import UserError

SMALLEST_SCALE = 2.0**-8
"""fp16 losses are scaled by powers of two; gradients that overflow below this are not finite."""


def scheduled_lr(step: int, config: TrainJob) -> float:
    """Linear warm-up, then half a cosine down to a fiftieth of the highest rate."""
    rise = min(1.0, (step + 1) / max(1, config.warmup))
    fall = 0.5 * (1 + math.cos(math.pi * step / config.steps))
    return config.lr * rise * (0.02 + 0.98 * fall)


class Optimiser:
    """Collects the gradients of the parts of a batch, then takes one clipped step.

    In fp16, losses are scaled up so that small gradients do not vanish, and a step whose
    gradients overflow is skipped (Micikevicius et al., 2018, section 3.2).
    """

    def __init__(self, optimizer: torch.optim.Optimizer, world: World, clip: float) -> None:
        self.optimizer, self.clip = optimizer, clip
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=world.dtype == torch.float16)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss."""
        self.scaler.scale(loss).backward()

    def gradient(self, loss: Tensor, at: Tensor) -> Tensor:
        """The gradient of a loss at a tensor; it is scaled on the way there only."""
        (gradient,) = torch.autograd.grad(self.scaler.scale(loss), at)
        return gradient / self.scale if self.scaler.is_enabled() else gradient

    @property
    def scale(self) -> float:
        return self.scaler.get_scale()

    def step(self, lr: float) -> Tensor:
        """Take a step with the collected gradient; returns its norm before clipping.

        The norm of a skipped step is 0.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if not self.scaler.is_enabled():
            return norm
        if self.scale < SMALLEST_SCALE:
            raise UserError("gradients overflow in fp16 repeatedly: pass --precision bf16")
        return norm.nan_to_num(0.0, 0.0, 0.0)

    def state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Restore an optimiser, its moments in the memory layout of their parameters.

        Files have the contiguous layout, but the fused step pairs elements by memory address.
        """
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in self.optimizer.state.items():
            for name, value in moments.items():
                if value.shape == parameter.shape:
                    moments[name] = torch.empty_like(parameter).copy_(value)
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
