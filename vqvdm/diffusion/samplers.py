"""From noise to normalised latents: plain functions over a `predict(z, time)`.

Time runs from 1 (noise) to 0 (data). A sampler belongs to an objective: `euler` and `heun`
follow a flow's velocity, `ddim` a noise prediction.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vqvdm.diffusion.objectives import alpha_sigma
from vqvdm.diffusion.unet import UNet
from vqvdm.errors import UserError

Predict = Callable[[Tensor, Tensor], Tensor]


def guided(denoiser: UNet, class_B: Tensor, fps_B: Tensor, guidance: float) -> Predict:
    """Classifier-free guidance: u + g (c - u) (Ho & Salimans, 2022, equation 6).

    Both predictions are made in one batch. With g = 1 the unconditional one is left out.
    """
    no_class = torch.full_like(class_B, denoiser.num_classes)
    if guidance == 1.0 or bool((class_B == no_class).all()):
        return lambda z, time: denoiser(z, time, class_B, fps_B).float()

    classes, fps = torch.cat([class_B, no_class]), torch.cat([fps_B, fps_B])

    def predict(z_BCTHW: Tensor, time_B: Tensor) -> Tensor:
        both = denoiser(
            torch.cat([z_BCTHW, z_BCTHW]), torch.cat([time_B, time_B]), classes, fps
        ).float()
        conditional, unconditional = both.chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    return predict


def _times(z_BCTHW: Tensor, steps: int) -> list[Tensor]:
    """`steps` + 1 times from 1 to 0, each as a vector (B,)."""
    grid = torch.linspace(1.0, 0.0, steps + 1, device=z_BCTHW.device)
    return [t.expand(z_BCTHW.shape[0]) for t in grid]


def euler(predict: Predict, z_BCTHW: Tensor, steps: int) -> Tensor:
    """Follow the velocity in straight steps; `steps` evaluations."""
    times = _times(z_BCTHW, steps)
    for now, then in zip(times, times[1:], strict=False):
        z_BCTHW = z_BCTHW + (then - now)[0] * predict(z_BCTHW, now)
    return z_BCTHW


def heun(predict: Predict, z_BCTHW: Tensor, steps: int) -> Tensor:
    """Second order: average the slope at both ends of a step; 2 `steps` - 1 evaluations."""
    times = _times(z_BCTHW, steps)
    for now, then in zip(times, times[1:], strict=False):
        step, slope = (then - now)[0], predict(z_BCTHW, now)
        guess = z_BCTHW + step * slope
        # The end of the last step is free of noise: nothing is learned there.
        if then[0] > 0:
            slope = 0.5 * (slope + predict(guess, then))
            guess = z_BCTHW + step * slope
        z_BCTHW = guess
    return z_BCTHW


def ddim(predict: Predict, z_BCTHW: Tensor, steps: int) -> Tensor:
    """Deterministic sampling of a noise prediction (Song et al., 2021, equation 12, sigma 0)."""
    times = _times(z_BCTHW, steps)
    for now, then in zip(times, times[1:], strict=False):
        alpha, sigma = alpha_sigma(now[0])
        alpha_next, sigma_next = alpha_sigma(then[0])
        noise = predict(z_BCTHW, now)
        z_BCTHW = alpha_next * (z_BCTHW - sigma * noise) / alpha + sigma_next * noise
    return z_BCTHW


SAMPLERS = {"flow": {"heun": heun, "euler": euler}, "epsilon": {"ddim": ddim}}
"""Samplers of each objective by name, the default one first."""


def find_sampler(objective: str, name: str | None) -> Callable[[Predict, Tensor, int], Tensor]:
    """A sampler by name, the objective's default for None; `UserError` where they don't fit."""
    choices = SAMPLERS[objective]
    if name is None:
        return next(iter(choices.values()))
    if name not in choices:
        raise UserError(
            f"sampler {name!r} does not fit a model trained with {objective!r}; "
            f"use one of: {', '.join(choices)}"
        )
    return choices[name]
