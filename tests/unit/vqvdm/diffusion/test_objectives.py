"""Noising: its ends, its targets, its times; and how classes and captions are dropped."""

import pytest
import torch
from torch import Tensor

from vqvdm.diffusion.objectives import (
    ObjectiveConfig,
    ObjectiveName,
    add_noise,
    alpha_sigma,
    denoised,
    draw_times,
    drop_classes,
    drop_conditions,
)

OBJECTIVES: list[ObjectiveName] = ["flow", "v", "epsilon"]
COSINE: list[ObjectiveName] = ["v", "epsilon"]
TIMES = torch.tensor([0.1, 0.5, 0.9])


def draws(count: int = 3) -> tuple[Tensor, Tensor]:
    """Latents and noise (count, 3, 2, 4, 4)."""
    generator = torch.Generator().manual_seed(0)
    z_BCTHW = 2 * torch.rand(count, 3, 2, 4, 4, generator=generator) - 1
    return z_BCTHW, torch.randn(count, 3, 2, 4, 4, generator=generator)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_time_zero_is_the_data(name: ObjectiveName) -> None:
    z_BCTHW, noise_BCTHW = draws()
    noised = add_noise(ObjectiveConfig(name), z_BCTHW, noise_BCTHW, torch.zeros(3))
    assert torch.equal(noised.z_BCTHW, z_BCTHW)


def test_time_one_is_the_noise_for_a_flow() -> None:
    z_BCTHW, noise_BCTHW = draws()
    noised = add_noise(ObjectiveConfig("flow"), z_BCTHW, noise_BCTHW, torch.ones(3))
    assert torch.equal(noised.z_BCTHW, noise_BCTHW)


@pytest.mark.parametrize("name", COSINE)
def test_time_one_is_nearly_the_noise_under_a_cosine(name: ObjectiveName) -> None:
    z_BCTHW, noise_BCTHW = draws()
    noised = add_noise(ObjectiveConfig(name), z_BCTHW, noise_BCTHW, torch.ones(3))
    torch.testing.assert_close(noised.z_BCTHW, noise_BCTHW, atol=0.03, rtol=0)
    assert not torch.equal(noised.z_BCTHW, noise_BCTHW)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_perfect_prediction_gives_data_and_noise_back(name: ObjectiveName) -> None:
    z_BCTHW, noise_BCTHW = draws()
    noised = add_noise(ObjectiveConfig(name), z_BCTHW, noise_BCTHW, TIMES)
    for row, time in enumerate(TIMES):
        alpha, sigma = (level.item() for level in alpha_sigma(name, time))
        data, noise = denoised(name, noised.target_BCTHW[row], noised.z_BCTHW[row], alpha, sigma)
        torch.testing.assert_close(data, z_BCTHW[row], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(noise, noise_BCTHW[row], atol=1e-5, rtol=1e-5)


def test_targets_by_name() -> None:
    z_BCTHW, noise_BCTHW = draws()

    def target(name: ObjectiveName) -> Tensor:
        return add_noise(ObjectiveConfig(name), z_BCTHW, noise_BCTHW, TIMES).target_BCTHW

    assert torch.equal(target("epsilon"), noise_BCTHW)
    torch.testing.assert_close(target("flow"), noise_BCTHW - z_BCTHW)
    alpha, sigma = (level.view(3, 1, 1, 1, 1) for level in alpha_sigma("v", TIMES))
    torch.testing.assert_close(target("v"), alpha * noise_BCTHW - sigma * z_BCTHW)


def test_min_snr_weights_what_is_clear_like_what_is_not() -> None:
    z_BCTHW, noise_BCTHW = draws()
    weight_B = add_noise(ObjectiveConfig("v"), z_BCTHW, noise_BCTHW, TIMES).weight_B
    alpha, sigma = alpha_sigma("v", TIMES)
    snr = (alpha / sigma) ** 2
    torch.testing.assert_close(weight_B, snr.clamp(max=5.0) / (snr + 1))
    assert snr[0] > 5 > snr[1]  # both branches were taken
    for name in ("flow", "epsilon"):
        noised = add_noise(ObjectiveConfig(name), z_BCTHW, noise_BCTHW, TIMES)
        assert torch.equal(noised.weight_B, torch.ones(3))


@pytest.mark.parametrize("name", COSINE)
def test_the_cosine_schedule_keeps_the_variance(name: ObjectiveName) -> None:
    alpha, sigma = alpha_sigma(name, torch.linspace(0, 1, 101))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(101))
    assert (alpha[0], sigma[0]) == (1, 0)
    assert (alpha.diff() < 0).all()
    assert (sigma.diff() > 0).all()
    assert 0 < alpha[-1] < 0.05  # a trace of the data is left to divide by


@pytest.mark.parametrize("name", OBJECTIVES)
def test_times_follow_their_distribution(name: ObjectiveName) -> None:
    quantiles = (torch.arange(1000) + 0.5) / 1000
    normal_B = torch.special.ndtri(quantiles)
    time_B = draw_times(name, normal_B)
    if name == "flow":  # logit-normal: most of the training in the middle, as much on either side
        torch.testing.assert_close(time_B.logit(), normal_B, atol=1e-4, rtol=0)
        assert time_B.mean().item() == pytest.approx(0.5, abs=1e-3)
        assert ((time_B > 0.25) & (time_B < 0.75)).float().mean() > 0.7
    else:  # uniform
        torch.testing.assert_close(time_B, quantiles, atol=1e-4, rtol=0)


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


@pytest.mark.parametrize("dropout", [0.0, 0.2, 0.5, 1.0])
def test_class_and_caption_are_dropped_together_and_alone(dropout: float) -> None:
    rows = 100_000
    generator = torch.Generator().manual_seed(0)
    both_B, either_B = torch.rand(2, rows, generator=generator)
    class_B, text_BD = torch.ones(rows, dtype=torch.long), torch.ones(rows, 3)
    classes, texts = drop_conditions(class_B, text_BD, both_B, either_B, dropout, 7)
    assert set(classes.tolist()) <= {1, 7}
    has_class, has_text = classes == 1, texts.all(1)
    assert (has_text | ~texts.any(1)).all()  # whole captions

    def share(which: Tensor) -> float:
        return which.float().mean().item()

    left = 1 - dropout
    assert share(~has_class & ~has_text) == pytest.approx(dropout, abs=0.01)
    assert share(has_class & ~has_text) == pytest.approx(left * dropout / 2, abs=0.01)
    assert share(~has_class & has_text) == pytest.approx(left * dropout / 2, abs=0.01)
    assert share(has_class & has_text) == pytest.approx(left * left, abs=0.01)
