"""One step of an optimiser: its rate, its gradient, and what mixed precision needs around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.training.settings import TrainJob
from pipelines.training.world import World
from vqvdm.errors import UserError

FIRST_SCALE, SMALLEST_SCALE = 2.0**16, 2.0**-8
"""fp16 losses are scaled by powers of two; gradients that overflow below this are not finite."""
MOST_SKIPPED = 50
"""Skipped steps in a row after which a training ends."""


def scheduled_lr(step: int, config: TrainJob) -> float:
    """Linear warm-up, then half a cosine down to a fiftieth of the highest rate."""
    rise = min(1.0, (step + 1) / max(1, config.warmup))
    fall = 0.5 * (1 + math.cos(math.pi * step / config.steps))
    return config.lr * rise * (0.02 + 0.98 * fall)


class Optimiser:
    """Collects the gradients of the parts of a batch, then takes one clipped step.

    Skips steps whose gradient is not finite, without waiting for the device. In fp16, losses are
    scaled up so that small gradients do not vanish, and a skipped step lowers the scale
    (Micikevicius et al., 2018, section 3.2).
    """

    def __init__(self, optimizer: torch.optim.Optimizer, world: World, clip: float) -> None:
        """The optimizer is a fused one: others read whether to skip on the host. Gradients are
        clipped to the norm `clip`; 0 clips none."""
        self.optimizer, self.clip = optimizer, clip or math.inf
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._scaled = world.dtype == torch.float16
        # A scale that stays 1 changes no gradient: the scaler then only skips.
        self.scaler = torch.amp.GradScaler(world.device.type, FIRST_SCALE if self._scaled else 1.0)
        self._one = torch.ones((), device=world.device)
        self._norm = torch.zeros((), device=world.device)
        zero = torch.zeros((), dtype=torch.int64, device=world.device)
        self.skipped, self.in_a_row = zero, zero

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss."""
        self.scaler.scale(loss).backward()

    def gradient(self, loss: Tensor, at: Tensor) -> Tensor:
        """The gradient of a loss at a tensor; it is scaled on the way there only."""
        (gradient,) = torch.autograd.grad(self.scaler.scale(loss), at)
        return gradient / self.scale if self._scaled else gradient

    @property
    def scale(self) -> Tensor:
        return self.scaler.scale(self._one)

    def norm(self) -> Tensor:
        """The norm of the collected gradient; not finite if anything in it is not."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        return nn.utils.get_total_norm(gradients) / self.scale

    def step(self, lr: float, norm: Tensor, took: Tensor) -> None:
        """Take a clipped step with the collected gradient of this norm; none unless `took`."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        # Clipping by a norm of nan makes every gradient nan: the scaler finds that, and skips.
        poison = torch.where(took, norm, math.nan)
        nn.utils.clip_grads_with_norm_(self.parameters, self.clip, poison)
        self.scaler.step(self.optimizer)
        self.scaler.update(None if self._scaled else 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        self._norm = torch.where(took, norm, 0.0)
        self.skipped = self.skipped + ~took
        self.in_a_row = torch.where(took, 0, self.in_a_row + 1)

    def metrics(self) -> dict[str, Tensor]:
        """Of the last step: the norm of its gradient before clipping, 0 if it was skipped."""
        found = {
            "gradient_norm": self._norm,
            "skipped_steps": self.skipped,
            "skipped_in_a_row": self.in_a_row,
        }
        return found | {"loss_scale": self.scale} if self._scaled else found

    def state(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self._scaled else {},
            "skipped": {"steps": self.skipped, "in_a_row": self.in_a_row},
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore an optimiser, its moments in the memory layout of their parameters.

        Files have the contiguous layout, but the fused step pairs elements by memory address.
        """
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in self.optimizer.state.items():
            for name, value in moments.items():
                if value.shape == parameter.shape:
                    moments[name] = torch.empty_like(parameter).copy_(value)
        if self._scaled and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if "skipped" in state:  # older checkpoints have none
            device = self._one.device
            self.skipped = state["skipped"]["steps"].to(device)
            self.in_a_row = state["skipped"]["in_a_row"].to(device)


def step_together(*rates: tuple[Optimiser, float]) -> Tensor:
    """Each optimiser takes a step at its rate, or none does if any gradient is not finite.

    Returns which of both, a truth value on the device. Workers decide alike, as their gradients
    are averaged.
    """
    norms = [optimiser.norm() for optimiser, _ in rates]
    took = torch.stack(norms).isfinite().all()
    for (optimiser, lr), norm in zip(rates, norms, strict=True):
        optimiser.step(lr, norm, took)
    return took


def refuse_standstill(
    metrics: Mapping[str, Tensor], step: int, steps: int, saved: Callable[[], int | None]
) -> None:
    """`UserError` if nothing but skipped steps has come for long, or through a whole training.

    `saved` finds the step of the newest checkpoint.
    """
    if "loss_scale" in metrics and metrics["loss_scale"] < SMALLEST_SCALE:
        name = f" and another --name, as step {kept} is saved here" if (kept := saved()) else ""
        raise UserError(
            f"gradients overflow in fp16 repeatedly, up to step {step}: pass --precision bf16, "
            f"or fp32 on a GPU older than A100{name}"
        )
    in_a_row = int(metrics["skipped_in_a_row"])
    if in_a_row < min(MOST_SKIPPED, steps):
        return
    cure = "pass a lower --lr"
    if kept := saved():
        cure = (
            f"the checkpoint of step {kept} is intact, and the same command resumes from it; if "
            f"it ends here again, {cure} and another --name"
        )
    raise UserError(
        f"the gradients of {in_a_row} steps in a row, up to step {step}, are not finite: {cure}"
    )
