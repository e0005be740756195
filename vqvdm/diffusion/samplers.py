"""From noise to normalised latents: plain functions over a `denoise(z, point)`.

A sampler goes through points from time 1 (noise) to 0 (data). `SAMPLERS` lists the samplers that
fit each training objective.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vqvdm.diffusion.guidance import Conditions, Predict, guided
from vqvdm.diffusion.known_latents import KnownLatents
from vqvdm.diffusion.objectives import Denoised, Predicted, alpha_sigma, denoised
from vqvdm.errors import UserError
from vqvdm.ranges import Count, NotNegative, Share, check_ranges

STEPS = 20
"""Steps of the sampler, where neither the options nor the model say how many."""


@dataclass(frozen=True)
class SamplingOptions:
    """How a video is sampled."""

    steps: Count | None = None
    """Steps of the sampler, at least 1; by default the model's own number, or `STEPS`."""
    guidance: NotNegative = 2.0
    """Weight of classifier-free guidance, at least 0; 1 means none. A distilled model has its
    guidance built in, whatever this says."""
    sampler: str | None = None
    """Name of a sampler in `SAMPLERS` that fits the model's objective; by default the first."""
    guidance_interval: tuple[Share, Share] = (0.0, 1.0)
    """Times from 0 (data) to 1 (noise) within which guidance is applied."""

    def check(self) -> None:
        """`UserError` for a number out of its range."""
        check_ranges(self)
        if self.guidance_interval[0] >= self.guidance_interval[1]:
            raise UserError(
                f"guidance_interval is {self.guidance_interval}: give two times, rising, "
                "between 0 (data) and 1 (noise)"
            )


class Point(NamedTuple):
    """A time, and the levels of signal and noise there."""

    time: float
    alpha: float
    sigma: float


Denoise = Callable[[Tensor, Point], Denoised]
"""Noised latents at a point to the data and the noise in them."""
Draw = Callable[[], Tensor]
"""Fresh standard normal noise of the latents' shape."""
Sampler = Callable[[Denoise, Tensor, Sequence[Point], Draw], Tensor]


def even_points(name: Predicted, steps: int) -> list[Point]:
    """`steps` + 1 points at even times from 1 to 0."""
    times = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    levels = alpha_sigma(name, times)
    return [
        Point(*values)
        for values in zip(times.tolist(), *(level.tolist() for level in levels), strict=True)
    ]


def guided_denoise(
    predict: Predict,
    conditions: Conditions,
    name: Predicted,
    guidance: float,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Denoise:
    """Data and noise at a point by a guided prediction, see `guidance.guided`. All clips have the
    time of the point, so outside the interval only the conditional prediction is made."""
    within = guided(predict, conditions, guidance)
    outside = guided(predict, conditions, 1.0)

    def denoise(z_BCTHW: Tensor, point: Point) -> Denoised:
        velocity = within if interval[0] <= point.time <= interval[1] else outside
        time_B = torch.full((len(z_BCTHW),), point.time, device=z_BCTHW.device)
        return denoised(name, velocity(z_BCTHW, time_B), z_BCTHW, point.alpha, point.sigma)

    return denoise


def clipped(denoise: Denoise, low: Tensor, high: Tensor) -> Denoise:
    """Keep the data between `low` and `high`: static thresholding (Saharia et al., 2022,
    section 2.3).

    The noise is recomputed to match. This is for pixels: latents have no fixed range.
    """

    def denoise_within(z_BCTHW: Tensor, point: Point) -> Denoised:
        data = denoise(z_BCTHW, point).data_BCTHW.clamp(low, high)
        return Denoised(data, (z_BCTHW - point.alpha * data) / point.sigma)

    return denoise_within


def held(denoise: Denoise, known: KnownLatents) -> Denoise:
    """Clamp conditioning frames to their values, so that at each step they carry the right noise
    level; the unconditional prediction of guidance then sees inputs as in training."""

    def denoise_beside(z_BCTHW: Tensor, point: Point) -> Denoised:
        found = denoise(z_BCTHW, point)
        there = (z_BCTHW - point.alpha * known.z_BCTHW) / point.sigma
        noise = known._replace(z_BCTHW=there).put(found.noise_BCTHW)
        return Denoised(known.put(found.data_BCTHW), noise)

    return denoise_beside


def ddim(denoise: Denoise, z_BCTHW: Tensor, points: Sequence[Point], draw: Draw) -> Tensor:
    """Deterministic, first order (Song et al., 2021, equation 12, sigma 0). For a flow this is
    Euler's method, which is exact for average velocities."""
    for now, then in zip(points, points[1:], strict=False):
        data, noise = denoise(z_BCTHW, now)
        z_BCTHW = then.alpha * data + then.sigma * noise
    return z_BCTHW


euler = ddim


def heun(denoise: Denoise, z_BCTHW: Tensor, points: Sequence[Point], draw: Draw) -> Tensor:
    """Second order, for a flow: each step takes the mean of the slopes at its two ends (Karras et
    al., 2022, algorithm 1). This takes 2 `steps` - 1 network evaluations."""
    for now, then in zip(points, points[1:], strict=False):
        data, noise = denoise(z_BCTHW, now)
        slope = noise - data
        # The last step ends without noise, where the denoiser was not trained.
        if then.sigma > 0:
            data, noise = denoise(z_BCTHW + (then.time - now.time) * slope, then)
            slope = 0.5 * (slope + noise - data)
        z_BCTHW = z_BCTHW + (then.time - now.time) * slope
    return z_BCTHW


def ddpm(denoise: Denoise, z_BCTHW: Tensor, points: Sequence[Point], draw: Draw) -> Tensor:
    """Ancestral sampling: draws from the posterior at every step (Ho et al., 2020, equation 7)."""
    for now, then in zip(points, points[1:], strict=False):
        data, _ = denoise(z_BCTHW, now)
        ratio = now.alpha / then.alpha
        added = 1 - (ratio * then.sigma / now.sigma) ** 2
        z_BCTHW = ratio * (then.sigma / now.sigma) ** 2 * z_BCTHW + then.alpha * added * data
        if then.sigma > 0:
            z_BCTHW = z_BCTHW + then.sigma * math.sqrt(added) * draw()
    return z_BCTHW


def dpm_solver(denoise: Denoise, z_BCTHW: Tensor, points: Sequence[Point], draw: Draw) -> Tensor:
    """DPM-Solver++ 2M: second order, by the previous estimate (Lu et al., 2022, algorithm 2).

    The first and the last step are of first order, because the logarithm of the signal-to-noise
    ratio is infinite at pure noise and at pure data.
    """
    before: Tensor | None = None
    step_before = math.inf
    for now, then in zip(points, points[1:], strict=False):
        data, _ = denoise(z_BCTHW, now)
        step = _log_snr(then) - _log_snr(now)
        estimate = data
        if before is not None and math.isfinite(step_before) and then.sigma > 0:
            estimate = data + step / step_before / 2 * (data - before)
        shrink = then.sigma / now.sigma
        z_BCTHW = shrink * z_BCTHW - then.alpha * math.expm1(-step) * estimate
        before, step_before = data, step
    return z_BCTHW


def _log_snr(point: Point) -> float:
    """Half the logarithm of the signal-to-noise ratio: infinite at pure data and pure noise."""
    if point.alpha <= 0:
        return -math.inf
    return math.log(point.alpha / point.sigma) if point.sigma > 0 else math.inf


SAMPLERS: dict[Predicted, dict[str, Sampler]] = {
    "flow": {"heun": heun, "euler": euler, "dpm": dpm_solver},
    "v": {"dpm": dpm_solver, "ddim": ddim, "ddpm": ddpm},
    "epsilon": {"ddpm": ddpm, "ddim": ddim, "dpm": dpm_solver},
    "average_velocity": {"euler": euler},
}
"""Samplers of each objective by name, the default one first."""


def find_sampler(objective: Predicted, name: str | None) -> Sampler:
    """A sampler by name, or the objective's default for None. `UserError` if they do not fit."""
    choices = SAMPLERS[objective]
    if name is None:
        return next(iter(choices.values()))
    if name not in choices:
        raise UserError(
            f"sampler {name!r} does not fit a model trained with {objective!r}; "
            f"use one of: {', '.join(choices)}"
        )
    return choices[name]
