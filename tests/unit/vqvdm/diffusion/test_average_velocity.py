"""Average velocities against flows whose paths are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vqvdm.diffusion.average_velocity import (
    by_halves,
    by_steps,
    grids,
    refuse_steps,
)
from vqvdm.diffusion.guidance import Conditions
from vqvdm.diffusion.samplers import ddim, even_points, find_sampler, guided_denoise
from vqvdm.errors import UserError

SCALE = 0.3
CLASSES, FPS = torch.tensor([0, 1, 1]), torch.tensor([8.0, 16.0, 8.0])
TIMES = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
"""Ends of intervals of a quarter; the last one ends at the data."""


def noise() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 2, 1, 2, 2, generator=generator, dtype=torch.float64)


def spread(time: Tensor) -> Tensor:
    """Standard deviation of (1 - t) x + t e for data x ~ N(0, SCALE²): paths are scaled by it."""
    return ((1 - time) ** 2 * SCALE**2 + time**2).sqrt()


def velocity(z: Tensor, time_B: Tensor) -> Tensor:
    """The flow of Gaussian data: z times the derivative of the logarithm of `spread`."""
    time = time_B.view(-1, 1, 1, 1, 1)
    return z * (time - (1 - time) * SCALE**2) / spread(time) ** 2


def exact(z: Tensor, time_B: Tensor, length: float) -> Tensor:
    time = time_B.view(-1, 1, 1, 1, 1)
    return (z - z * spread(time - length) / spread(time)) / length


@pytest.mark.parametrize("length", [0.125, 0.25])
def test_steps_of_heuns_method_find_the_average(length: float) -> None:
    errors = [
        (by_steps(velocity, noise(), TIMES, length, steps) - exact(noise(), TIMES, length)).norm()
        for steps in (16, 32, 64)
    ]
    assert errors[0] < 0.03
    # Of second order but for the last step to the data, which is of first order and shrinks.
    assert errors[0] > 3.5 * errors[1] > 12 * errors[2]


def test_a_step_is_half_the_sum_of_the_slopes_at_its_ends() -> None:
    found = by_steps(lambda z, t: t.view(-1, 1, 1, 1, 1) ** 2 + 0 * z, noise(), TIMES, 0.25, 1)
    # (1 + 9/16) / 2, (1/4 + 1/16) / 2, and at the data the slope at the begin alone.
    expected = torch.tensor([25 / 32, 5 / 32, 1 / 16], dtype=torch.float64)
    assert torch.equal(found, expected.view(-1, 1, 1, 1, 1).expand_as(found))


def test_no_slope_at_the_data_counts() -> None:
    """There a flow was never trained: what it says may be anything."""
    found = by_steps(
        lambda z, t: torch.where(t.view(-1, 1, 1, 1, 1) > 0, velocity(z, t), math.nan),
        noise(), TIMES, 0.25, 2,
    )  # fmt: skip
    assert found.isfinite().all()


def test_an_interval_is_the_mean_of_its_halves() -> None:
    times = torch.tensor([1.0, 0.5, 0.75], dtype=torch.float64)
    found = by_halves(exact, noise(), times, 0.5)
    torch.testing.assert_close(found, exact(noise(), times, 0.5), atol=1e-12, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_average_velocities_reach_the_data_in_any_number_of_steps(steps: int) -> None:
    def predict(z: Tensor, time_B: Tensor, conditions: Conditions) -> Tensor:
        return exact(z, time_B.double(), 1 / steps)

    name = "average_velocity"
    denoise = guided_denoise(predict, Conditions(CLASSES, FPS, 2), name, 1.0)
    # guidance rounds to float32
    z = find_sampler(name, None)(denoise, noise(), even_points(name, steps), noise)
    torch.testing.assert_close(z, SCALE * noise(), atol=1e-6, rtol=0)


def test_grids_are_powers_of_two() -> None:
    assert grids(8) == [1, 2, 4, 8]
    for steps in (1, 2, 4):
        refuse_steps(steps, 4)
    for steps in (3, 8):
        with pytest.raises(UserError, match=f"steps is {steps}: .* samples in 1, 2 or 4 steps"):
            refuse_steps(steps, 4)


def test_no_other_sampler_fits() -> None:
    assert find_sampler("average_velocity", None) is ddim
    with pytest.raises(UserError, match=r"'heun' .*'average_velocity'; use one of: euler$"):
        find_sampler("average_velocity", "heun")
