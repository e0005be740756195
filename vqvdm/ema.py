"""An exponential moving average of a model's weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

Model = TypeVar("Model", bound=nn.Module)


class EMA(Generic[Model]):
    """Keeps `average`, a copy of the model whose weights are moving averages of the model's. It
    shares those that are frozen.

    The decay starts low and grows to `decay` as (1 + step) / (10 + step), so that the first
    weights, which are far from the last, are soon forgotten.
    """

    # torch's AveragedModel copies the model at its first update; this one averages from the start.

    def __init__(self, model: Model, decay: float) -> None:
        self.decay = decay
        frozen = {id(each): each for each in model.parameters() if not each.requires_grad}
        self.average: Model = copy.deepcopy(model, frozen).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: Model, step: int) -> None:
        """Move towards `model` after training step `step` (from 0), also after a skipped one, which
        left the model where it was. Buffers are copied."""
        decay = min(self.decay, (1 + step) / (10 + step))
        # All weights at once, as on a GPU each of hundreds of operations costs the host time.
        move = get_ema_multi_avg_fn(decay)
        pairs = zip(self.average.parameters(), model.parameters(), strict=True)
        averages, moved = zip(*(pair for pair in pairs if pair[1].requires_grad), strict=True)
        move(list(averages), list(moved), step)
        for buffer, copied in zip(self.average.buffers(), model.buffers(), strict=True):
            buffer.copy_(copied)
