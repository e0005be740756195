"""Samplers against flows and noise predictions with known solutions; guidance by its formula."""

import math
from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor

from vqvdm.diffusion.objectives import alpha_sigma
from vqvdm.diffusion.samplers import Predict, ddim, euler, find_sampler, guided, heun
from vqvdm.diffusion.unet import UNet
from vqvdm.errors import UserError

Sampler = Callable[[Predict, Tensor, int], Tensor]
MU, SCALE = 0.7, 0.3


def noise() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 2, 2, 3, 3, generator=generator, dtype=torch.float64)


def expanded(value_B: Tensor) -> Tensor:
    return value_B[:, None, None, None, None].double()


def point_velocity(z: Tensor, time_B: Tensor) -> Tensor:
    """The flow's velocity where all data are MU: straight lines."""
    return (z - MU) / expanded(time_B)


def gaussian_velocity(z: Tensor, time_B: Tensor) -> Tensor:
    """E[e - x | z_t] for data x ~ N(0, SCALE²), noise e and z_t = (1 - t) x + t e."""
    t = expanded(time_B)
    return (t - (1 - t) * SCALE**2) / ((1 - t) ** 2 * SCALE**2 + t**2) * z


def point_noise(z: Tensor, time_B: Tensor) -> Tensor:
    """The noise where all data are MU."""
    alpha, sigma = map(expanded, alpha_sigma(time_B))
    return (z - alpha * MU) / sigma


def gaussian_noise(z: Tensor, time_B: Tensor) -> Tensor:
    """E[e | z_t] for data x ~ N(0, SCALE²) and z_t = alpha x + sigma e."""
    alpha, sigma = map(expanded, alpha_sigma(time_B))
    return sigma / (alpha**2 * SCALE**2 + sigma**2) * z


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize(
    ("sampler", "predict"), [(euler, point_velocity), (heun, point_velocity), (ddim, point_noise)]
)
def test_a_straight_path_is_exact_in_any_number_of_steps(
    sampler: Sampler, predict: Predict, steps: int
) -> None:
    z = sampler(predict, noise(), steps)
    torch.testing.assert_close(z, torch.full_like(z, MU), atol=1e-5, rtol=0)


def error(sampler: Sampler, steps: int) -> float:
    """Distance from the solution for Gaussian data: noise scaled by a constant."""
    if sampler is ddim:
        alpha, sigma = (level.item() for level in alpha_sigma(torch.ones(())))
        scale = SCALE / math.sqrt(alpha**2 * SCALE**2 + sigma**2)
        z = ddim(gaussian_noise, noise(), steps)
    else:
        scale = SCALE
        z = sampler(gaussian_velocity, noise(), steps)
    return (z - scale * noise()).norm().item()


@pytest.mark.parametrize(("sampler", "order"), [(euler, 1), (heun, 2), (ddim, 1)])
def test_the_error_falls_with_the_order_of_the_sampler(sampler: Sampler, order: int) -> None:
    observed = math.log2(error(sampler, 64) / error(sampler, 128))
    assert observed == pytest.approx(order, abs=0.25)


def test_heun_is_better_at_the_same_cost() -> None:
    assert error(heun, 16) < error(euler, 31) / 2


@pytest.mark.parametrize(("sampler", "cost"), [(euler, 5), (heun, 9), (ddim, 5)])
def test_times_fall_from_one_and_never_reach_the_data(sampler: Sampler, cost: int) -> None:
    seen: list[Tensor] = []

    def predict(z: Tensor, time_B: Tensor) -> Tensor:
        seen.append(time_B)
        return torch.zeros_like(z)

    sampler(predict, noise(), 5)
    assert len(seen) == cost
    assert all(time_B.shape == (4,) and (time_B == time_B[0]).all() for time_B in seen)
    times = [time_B[0].item() for time_B in seen]
    assert times == sorted(times, reverse=True)
    assert (times[0], times[-1]) == (1.0, pytest.approx(0.2))


class Recorder:
    """Stands in for a denoiser of 3 classes: its answer tells the class, rate and time apart."""

    num_classes = 3

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, z: Tensor, time_B: Tensor, class_B: Tensor, fps_B: Tensor) -> Tensor:
        self.batches.append(len(z))
        return z * expanded(time_B) + expanded(fps_B) * expanded(class_B + 1) ** 2


def predictions(guidance: float, classes: list[int]) -> tuple[Tensor, list[int]]:
    """One guided prediction of a `Recorder`, and the batches it was asked for."""
    recorder = Recorder()
    fps_B = torch.tensor([8.0, 16.0, 24.0, 12.5])
    predict = guided(cast(UNet, recorder), torch.tensor(classes), fps_B, guidance)
    return predict(noise(), torch.tensor([1.0, 0.5, 0.25, 0.1])), recorder.batches


def test_guidance_by_its_formula() -> None:
    classes = [0, 1, 2, 3]
    conditional, _ = predictions(1.0, classes)
    unconditional, _ = predictions(1.0, [3] * 4)
    for guidance in (0.0, 0.5, 2.0, 7.5):
        found, batches = predictions(guidance, classes)
        expected = unconditional + guidance * (conditional - unconditional)
        torch.testing.assert_close(found, expected.float())
        assert batches == [8]  # both in one batch


@pytest.mark.parametrize(("guidance", "classes"), [(1.0, [0, 1, 2, 3]), (2.0, [3] * 4)])
def test_what_needs_no_guidance_is_evaluated_once(guidance: float, classes: list[int]) -> None:
    _, batches = predictions(guidance, classes)
    assert batches == [4]


def test_samplers_by_name() -> None:
    assert find_sampler("flow", None) is heun
    assert find_sampler("flow", "euler") is euler
    assert find_sampler("epsilon", None) is find_sampler("epsilon", "ddim") is ddim


@pytest.mark.parametrize(
    ("objective", "name", "cure"),
    [("flow", "ddim", "heun, euler"), ("epsilon", "heun", "ddim"), ("flow", "huen", "heun, euler")],
)
def test_a_sampler_that_does_not_fit_names_those_that_do(
    objective: str, name: str, cure: str
) -> None:
    with pytest.raises(UserError, match=f"'{name}' .*'{objective}'; use one of: {cure}$"):
        find_sampler(objective, name)
