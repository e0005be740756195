"""Average velocities: what a distilled denoiser predicts, and the targets that teach it.

The guided flow of a teacher has a velocity v(z, t). The average velocity over the time from t down
to r is u(z_t, r, t) = (z_t - z_r) / (t - r) (Geng et al., 2025, arXiv:2505.13447, equation 3). A
net that predicts it goes from t to r in one step: z_r = z_t - (t - r) u. Guidance is part of u, so
a step is one network evaluation, where guidance takes the teacher two.

Here t and r are neighbours on a grid of 1, 2, 4, ... equal intervals from 1 to 0, and the length
t - r tells the net which. Over a whole interval u is the mean of its two halves,
u(z_t, r, t) = (u(z_t, m, t) + u(z_m, r, m)) / 2 with m = (t + r) / 2 (Frans et al., 2024,
arXiv:2410.12557, equation 4).

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vqvdm.diffusion.guidance import Velocity
from vqvdm.diffusion.objectives import per_clip
from vqvdm.errors import UserError

Average = Callable[[Tensor, Tensor, float], Tensor]
"""Noised latents (B, C, T, H, W), the time t (B) of each, and t - r to average velocities
(B, C, T, H, W)."""


def grids(finest: int) -> list[int]:
    """The numbers of intervals of all grids, coarsest first: 1, 2, 4, ... up to `finest`."""
    return [2**k for k in range(finest.bit_length())]


def refuse_steps(steps: int, finest: int) -> None:
    """`UserError` unless one of the grids of a model has so many intervals."""
    if steps not in grids(finest):
        *most, last = grids(finest)
        raise UserError(
            f"steps is {steps}: this distilled model samples in "
            f"{', '.join(map(str, most))} or {last} steps"
        )


def by_steps(
    velocity: Velocity, z_BCTHW: Tensor, time_B: Tensor, length: float, steps: int
) -> Tensor:
    """The average velocity over `length` of time down from `time_B`, by `steps` steps of Heun's
    method; a step that ends at time 0 takes the slope at its beginning alone."""
    step, total = length / steps, torch.zeros_like(z_BCTHW)
    for _ in range(steps):
        slope = velocity(z_BCTHW, time_B)
        then_B = (time_B - step).clamp(min=0)
        ahead = velocity(z_BCTHW - step * slope, then_B)
        # Flows are not trained at time 0; `samplers.heun` does not evaluate them there either.
        at_end = per_clip(then_B < step / 2)
        slope = torch.where(at_end, slope, 0.5 * (slope + ahead))
        z_BCTHW, time_B = z_BCTHW - step * slope, then_B
        total = total + slope
    return total / steps


def by_halves(average: Average, z_BCTHW: Tensor, time_B: Tensor, length: float) -> Tensor:
    """The average velocity over `length` of time down from `time_B`, by that over its halves."""
    half = length / 2
    first = average(z_BCTHW, time_B, half)
    second = average(z_BCTHW - half * first, time_B - half, half)
    return 0.5 * (first + second)
