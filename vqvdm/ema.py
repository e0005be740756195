"""An exponential moving average of a model's weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class EMA(Generic[Model]):
    """Keeps `average`, a copy of the model that follows its weights slowly.

    The decay starts low and grows to `decay` as (1 + step) / (10 + step), so that the first
    steps, far from the end, are soon forgotten.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.decay = decay
        self.average: Model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: Model, step: int) -> None:
        """Move towards `model` after training step `step` (from 0). Buffers are copied."""
        decay = min(self.decay, (1 + step) / (10 + step))
        mine: list[Tensor] = list(self.average.parameters())
        torch._foreach_lerp_(mine, list[Tensor](model.parameters()), 1 - decay)
        for kept, new in zip(self.average.buffers(), model.buffers(), strict=True):
            kept.copy_(new)
