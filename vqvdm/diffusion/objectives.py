"""What the denoiser learns: how latents are noised, what is predicted, how the class is dropped.

Time runs from 0 (data) to 1 (noise) for every objective. Latents are *normalised*.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

ObjectiveName = Literal["flow", "epsilon"]


@dataclass(frozen=True)
class ObjectiveConfig:
    """How noise is added and what is predicted."""

    name: ObjectiveName = "flow"
    """`flow`: rectified flow with logit-normal times. `epsilon`: the DDPM of the paper."""
    class_dropout: float = 0.5
    """Chance that a clip's class is dropped in training, for classifier-free guidance."""


class Noised(NamedTuple):
    """Noised latents, what the denoiser has to predict from them, and the time of each."""

    z_BCTHW: Tensor
    target_BCTHW: Tensor
    time_B: Tensor


def _expand(value_B: Tensor) -> Tensor:
    return value_B[:, None, None, None, None]


def alpha_sigma(time_B: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise levels of the cosine schedule (Nichol & Dhariwal, 2021, equation 17).

    The end is kept a little off pure noise, where predicting the noise would say nothing.
    """
    angle = time_B * (math.pi / 2) * 0.99
    return angle.cos(), angle.sin()


def add_noise(
    name: ObjectiveName, z_BCTHW: Tensor, noise_BCTHW: Tensor, normal_B: Tensor
) -> Noised:
    """Noise latents at a random time, given standard normal draws for noise and time.

    `flow`: z_t = (1 - t) z + t e, target e - z, t = sigmoid(normal) (Esser et al., 2024,
    section 3.1). `epsilon`: z_t = alpha z + sigma e, target e, t uniform (Ho et al., 2020,
    equation 14).
    """
    if name == "flow":
        time = normal_B.sigmoid()
        t = _expand(time)
        return Noised((1 - t) * z_BCTHW + t * noise_BCTHW, noise_BCTHW - z_BCTHW, time)
    time = torch.special.ndtr(normal_B)
    alpha, sigma = map(_expand, alpha_sigma(time))
    return Noised(alpha * z_BCTHW + sigma * noise_BCTHW, noise_BCTHW, time)


def drop_classes(class_B: Tensor, uniform_B: Tensor, dropout: float, no_class: int) -> Tensor:
    """Replace classes by "no class" with probability `dropout` (Ho & Salimans, 2022)."""
    return torch.where(uniform_B < dropout, torch.full_like(class_B, no_class), class_B)
