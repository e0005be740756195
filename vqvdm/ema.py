"""An exponential moving average of a model's weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class EMA(Generic[Model]):
    """Keeps `average`, a copy of the model whose weights are moving averages of the model's.

    The decay starts low and grows to `decay` as (1 + step) / (10 + step), so that the first
    weights, which are far from the last, are soon forgotten.
    """

    # torch's AveragedModel copies the model at its first update; this one averages from the start.

    def __init__(self, model: Model, decay: float) -> None:
        self.decay = decay
        self.average: Model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: Model, step: int, took: Tensor | None = None) -> None:
        """Move towards `model` after training step `step` (from 0). Buffers are copied.

        `took` is a truth value on the device: where it is false, the weights stay.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        move = 1 - decay if took is None else torch.where(took, 1 - decay, 0.0)
        for weight, new in zip(self.average.parameters(), model.parameters(), strict=True):
            weight.lerp_(new, move)
        for buffer, copied in zip(self.average.buffers(), model.buffers(), strict=True):
            buffer.copy_(copied)
