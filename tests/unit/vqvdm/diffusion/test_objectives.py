"""Noising: its ends, its targets, its times; and how classes are dropped."""

import math

import pytest
import torch
from torch import Tensor

from vqvdm.diffusion.objectives import (
    ObjectiveName,
    add_noise,
    alpha_sigma,
    drop_classes,
)

OBJECTIVES: list[ObjectiveName] = ["flow", "epsilon"]


def draws(count: int = 3) -> tuple[Tensor, Tensor]:
    """Latents and noise (count, 3, 2, 4, 4)."""
    generator = torch.Generator().manual_seed(0)
    z_BCTHW = 2 * torch.rand(count, 3, 2, 4, 4, generator=generator) - 1
    return z_BCTHW, torch.randn(count, 3, 2, 4, 4, generator=generator)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_time_zero_is_the_data(name: ObjectiveName) -> None:
    z_BCTHW, noise_BCTHW = draws()
    noised = add_noise(name, z_BCTHW, noise_BCTHW, torch.full((3,), -math.inf))
    assert torch.equal(noised.time_B, torch.zeros(3))
    assert torch.equal(noised.z_BCTHW, z_BCTHW)


def test_time_one_is_the_noise_for_a_flow() -> None:
    z_BCTHW, noise_BCTHW = draws()
    noised = add_noise("flow", z_BCTHW, noise_BCTHW, torch.full((3,), math.inf))
    assert torch.equal(noised.time_B, torch.ones(3))
    assert torch.equal(noised.z_BCTHW, noise_BCTHW)


def test_time_one_is_nearly_the_noise_for_a_noise_prediction() -> None:
    z_BCTHW, noise_BCTHW = draws()
    noised = add_noise("epsilon", z_BCTHW, noise_BCTHW, torch.full((3,), math.inf))
    assert torch.equal(noised.time_B, torch.ones(3))
    torch.testing.assert_close(noised.z_BCTHW, noise_BCTHW, atol=0.03, rtol=0)
    assert not torch.equal(noised.z_BCTHW, noise_BCTHW)


def test_a_flow_is_straight_and_its_target_leads_to_both_ends() -> None:
    z_BCTHW, noise_BCTHW = draws()
    noised = add_noise("flow", z_BCTHW, noise_BCTHW, torch.tensor([-1.0, 0.0, 2.0]))
    torch.testing.assert_close(noised.target_BCTHW, noise_BCTHW - z_BCTHW)
    t = noised.time_B.view(3, 1, 1, 1, 1)
    torch.testing.assert_close(noised.z_BCTHW - t * noised.target_BCTHW, z_BCTHW)
    torch.testing.assert_close(noised.z_BCTHW + (1 - t) * noised.target_BCTHW, noise_BCTHW)


def test_a_noise_prediction_has_the_noise_for_its_target() -> None:
    z_BCTHW, noise_BCTHW = draws()
    noised = add_noise("epsilon", z_BCTHW, noise_BCTHW, torch.tensor([-1.0, 0.0, 2.0]))
    assert torch.equal(noised.target_BCTHW, noise_BCTHW)
    alpha, sigma = (level.view(3, 1, 1, 1, 1) for level in alpha_sigma(noised.time_B))
    torch.testing.assert_close((noised.z_BCTHW - sigma * noise_BCTHW) / alpha, z_BCTHW)


def test_the_cosine_schedule_keeps_the_variance() -> None:
    alpha, sigma = alpha_sigma(torch.linspace(0, 1, 101))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(101))
    assert (alpha[0], sigma[0]) == (1, 0)
    assert (alpha.diff() < 0).all()
    assert (sigma.diff() > 0).all()
    assert 0 < alpha[-1] < 0.05  # a trace of the data is left to divide by


@pytest.mark.parametrize("name", OBJECTIVES)
def test_times_follow_their_distribution(name: ObjectiveName) -> None:
    quantiles = (torch.arange(1000) + 0.5) / 1000
    normal_B = torch.special.ndtri(quantiles)
    empty = torch.zeros(1000, 1, 1, 1, 1)
    time_B = add_noise(name, empty, empty, normal_B).time_B
    if name == "epsilon":  # uniform
        torch.testing.assert_close(time_B, quantiles, atol=1e-4, rtol=0)
    else:  # logit-normal: most of the training in the middle, as much on either side
        torch.testing.assert_close(time_B.logit(), normal_B, atol=1e-4, rtol=0)
        assert time_B.mean().item() == pytest.approx(0.5, abs=1e-3)
        assert ((time_B > 0.25) & (time_B < 0.75)).float().mean() > 0.7


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.5, 1.0])
def test_classes_are_dropped_at_their_rate(dropout: float) -> None:
    uniform_B = torch.arange(1000) / 1000
    class_B = torch.arange(1000) % 5
    dropped = drop_classes(class_B, uniform_B, dropout, no_class=5)
    assert dropped.dtype == class_B.dtype
    assert (dropped == 5).sum().item() == round(1000 * dropout)
    kept = dropped != 5
    assert torch.equal(dropped[kept], class_B[kept])


def test_no_class_stays_no_class() -> None:
    uniform_B = torch.tensor([0.1, 0.9])
    assert drop_classes(torch.tensor([4, 4]), uniform_B, 0.5, no_class=4).tolist() == [4, 4]
