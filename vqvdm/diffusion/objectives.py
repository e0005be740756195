"""Training objectives: how latents are noised, what is predicted, how conditions are dropped.

Time runs from 0 (data) to 1 (noise) for every objective. Noised latents are
alpha(t) x + sigma(t) e for data x and noise e. Latents are *normalised*.

Shapes: B batch, C channels, T frames, H height, W width, D width of a caption's embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vqvdm.ranges import Positive, Share, check_ranges

ObjectiveName = Literal["flow", "v", "epsilon"]
Predicted = ObjectiveName | Literal["average_velocity"]
"""What a bundle's denoiser predicts: the target of its objective, or, distilled from a flow, the
average velocity of `vqvdm.diffusion.average_velocity`."""
LINEAR = ("flow", "average_velocity")
"""Predictions under which noised latents are (1 - t) x + t e."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """How noise is added and what is predicted."""

    name: ObjectiveName = "flow"
    """`flow`: rectified flow with logit-normal times. `v`: velocity under a cosine schedule, with
    min-SNR weights. `epsilon`: the noise under a cosine schedule, the DDPM of the paper."""
    class_dropout: Share = 0.5
    """Chance that a clip's class is dropped in training, for classifier-free guidance; of a model
    that takes captions, of class and caption together, and then of one of them."""
    min_snr: Positive = 5.0
    """Gamma in the loss weights of `v`: higher signal-to-noise ratios count as this one."""

    def check(self) -> None:
        """`UserError` for a number out of its range."""
        check_ranges(self)


class Noised(NamedTuple):
    """Noised latents, the target to predict from them, and the time and loss weight of each."""

    z_BCTHW: Tensor
    target_BCTHW: Tensor
    time_B: Tensor
    weight_B: Tensor


class Denoised(NamedTuple):
    """The data and the noise in noised latents, as estimated from a prediction."""

    data_BCTHW: Tensor
    noise_BCTHW: Tensor


def per_clip(value_B: Tensor) -> Tensor:
    """A number of each clip (B, 1, 1, 1, 1), for arithmetic with its latents."""
    return value_B[:, None, None, None, None]


def alpha_sigma(name: Predicted, time_B: Tensor) -> tuple[Tensor, Tensor]:
    """Levels of signal and noise at a time.

    A flow is linear: 1 - t and t. The others use the cosine schedule (Nichol & Dhariwal, 2021,
    equation 17). It ends just before pure noise, where predicted noise would not determine the
    data.
    """
    if name in LINEAR:
        return 1 - time_B, time_B
    angle = time_B * (math.pi / 2) * 0.99
    return angle.cos(), angle.sin()


def draw_times(name: ObjectiveName, normal_B: Tensor) -> Tensor:
    """Training times from standard normal draws: logit-normal for a flow (Esser et al., 2024,
    section 3.1), else uniform."""
    return normal_B.sigmoid() if name == "flow" else torch.special.ndtr(normal_B)


def add_noise(
    config: ObjectiveConfig, z_BCTHW: Tensor, noise_BCTHW: Tensor, time_B: Tensor
) -> Noised:
    """Add noise to latents, and compute the target to predict from the result.

    `flow`: e - x. `v`: alpha e - sigma x (Salimans & Ho, 2022, section 4), weighted by
    min(SNR, gamma) / (SNR + 1) (Hang et al., 2023, equation 8). `epsilon`: e (Ho et al., 2020,
    equation 14).
    """
    alpha_B, sigma_B = alpha_sigma(config.name, time_B)
    alpha, sigma = per_clip(alpha_B), per_clip(sigma_B)
    weight_B = torch.ones_like(time_B)
    if config.name == "flow":
        target = noise_BCTHW - z_BCTHW
    elif config.name == "v":
        target = alpha * noise_BCTHW - sigma * z_BCTHW
        # SNR / (SNR + 1) is alpha squared, 1 / (SNR + 1) sigma squared.
        weight_B = torch.minimum(alpha_B**2, config.min_snr * sigma_B**2)
    else:
        target = noise_BCTHW
    return Noised(alpha * z_BCTHW + sigma * noise_BCTHW, target, time_B, weight_B)


def denoised(
    name: Predicted, prediction_BCTHW: Tensor, z_BCTHW: Tensor, alpha: float, sigma: float
) -> Denoised:
    """Data and noise from noised latents and the prediction made from them. For an average
    velocity, these are the points at times 0 and 1 of the chord over the interval, extended."""
    if name in LINEAR:
        return Denoised(z_BCTHW - sigma * prediction_BCTHW, z_BCTHW + alpha * prediction_BCTHW)
    if name == "v":
        return Denoised(
            alpha * z_BCTHW - sigma * prediction_BCTHW, sigma * z_BCTHW + alpha * prediction_BCTHW
        )
    return Denoised((z_BCTHW - sigma * prediction_BCTHW) / alpha, prediction_BCTHW)


def drop_classes(class_B: Tensor, uniform_B: Tensor, dropout: float, no_class: int) -> Tensor:
    """Replace classes by "no class" with probability `dropout` (Ho & Salimans, 2022)."""
    return torch.where(uniform_B < dropout, torch.full_like(class_B, no_class), class_B)


def drop_conditions(
    class_B: Tensor,
    text_BD: Tensor,
    both_B: Tensor,
    either_B: Tensor,
    dropout: float,
    no_class: int,
) -> tuple[Tensor, Tensor]:
    """Drop class and caption together with probability `dropout`, and of the remaining clips the
    class or the caption, each with probability `dropout / 2`; `both_B` and `either_B` are uniform
    numbers. A dropped class is `no_class`, a dropped caption zeros.

    Both are dropped together so that the unconditional prediction of guidance is trained however
    low `dropout` is, and one alone so that each can be sampled without the other.
    """
    lacks_class_B = (both_B < dropout) | (either_B < dropout / 2)
    lacks_text_B = (both_B < dropout) | ((dropout / 2 <= either_B) & (either_B < dropout))
    classes = torch.where(lacks_class_B, torch.full_like(class_B, no_class), class_B)
    return classes, torch.where(lacks_text_B[:, None], torch.zeros_like(text_BD), text_BD)
