"""The losses of the VQGAN: reconstruction + VQ + discriminator.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LossConfig:
    """Weights of the three losses; the discriminator joins late and gently."""

    l1: float = 1.0
    l2: float = 1.0
    vq: float = 1.0
    adversarial: float = 0.01
    adversarial_start: float = 0.6
    """Share of the training after which the discriminator joins."""
    adversarial_ramp: float = 0.2
    """Share of the training over which its weight grows to the full one."""


def reconstruction_loss(x_BCTHW: Tensor, y_BCTHW: Tensor, config: LossConfig) -> Tensor:
    """Weighted sum of mean absolute and mean squared error."""
    return config.l1 * F.l1_loss(y_BCTHW, x_BCTHW) + config.l2 * F.mse_loss(y_BCTHW, x_BCTHW)


def adversarial_weight(step: int, steps: int, config: LossConfig) -> float:
    """Weight of the generator's adversarial loss: 0, then a linear ramp to `adversarial`.

    A discriminator that is switched on at once destroys reconstructions.
    """
    start = config.adversarial_start * steps
    ramp = max(1.0, config.adversarial_ramp * steps)
    return config.adversarial * min(1.0, max(0.0, (step - start) / ramp))


def generator_hinge(fake_logits: Tensor) -> Tensor:
    """Hinge loss of the generator (Lim & Ye, 2017, equation 2)."""
    return -fake_logits.mean()


def discriminator_hinge(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Hinge loss of the discriminator (Lim & Ye, 2017, equation 2)."""
    return 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())
