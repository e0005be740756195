"""The losses of the VQGAN against hand-made values."""

import math

import pytest
import torch

from vqvdm.tokenizer.discriminator import Judgement
from vqvdm.tokenizer.losses import (
    LeCAM,
    LossConfig,
    adaptive_weight,
    adversarial_weight,
    discriminator_hinge,
    feature_matching,
    generator_hinge,
    reconstruction_loss,
)


def test_reconstruction_loss_weighs_absolute_and_squared_errors() -> None:
    x_BCTHW = torch.zeros(2, 3, 2, 4, 4)
    y_BCTHW = x_BCTHW.clone()
    y_BCTHW[0] = 0.5  # half of the values are off by a half
    loss = reconstruction_loss(x_BCTHW, y_BCTHW, LossConfig(l1=2.0, l2=4.0))
    assert loss.item() == pytest.approx(2 * 0.25 + 4 * 0.125)
    assert reconstruction_loss(x_BCTHW, x_BCTHW, LossConfig(l1=2.0, l2=4.0)) == 0


@pytest.mark.parametrize(
    ("step", "weight"),
    [(0, 0.0), (499, 0.0), (500, 0.0), (550, 0.02), (600, 0.04), (700, 0.08), (999, 0.08)],
)
def test_the_discriminator_joins_late_and_gently(step: int, weight: float) -> None:
    config = LossConfig(adversarial=0.08, adversarial_start=0.5, adversarial_ramp=0.2)
    assert adversarial_weight(step, 1000, config) == pytest.approx(weight)


def test_the_weight_never_falls() -> None:
    config = LossConfig(adversarial=0.3, adversarial_start=0.25, adversarial_ramp=0.5)
    weights = [adversarial_weight(step, 100, config) for step in range(101)]
    assert weights == sorted(weights)
    assert (weights[0], weights[-1]) == (0.0, pytest.approx(0.3))


def test_a_ramp_of_nothing_is_a_step() -> None:
    config = LossConfig(adversarial=0.3, adversarial_start=0.5, adversarial_ramp=0.0)
    assert adversarial_weight(50, 100, config) == 0
    assert adversarial_weight(51, 100, config) == pytest.approx(0.3)


def test_a_weight_of_nothing_stays_nothing() -> None:
    config = LossConfig(adversarial=0.0, adversarial_start=0.0, adversarial_ramp=0.1)
    assert all(adversarial_weight(step, 10, config) == 0 for step in range(10))


@pytest.mark.parametrize(
    ("real", "fake", "loss"),
    [
        ([1.0, 5.0], [-1.0, -7.0], 0.0),  # beyond the margin, nothing is left to learn
        ([0.0, 0.0], [0.0, 0.0], 1.0),
        ([-1.0, 1.0], [0.5, -3.0], 0.5 * (1.0 + 0.75)),
        ([-2.0, -2.0], [3.0, 1.0], 0.5 * (3.0 + 3.0)),
    ],
)
def test_discriminator_hinge_by_hand(real: list[float], fake: list[float], loss: float) -> None:
    found = discriminator_hinge([torch.tensor(real)], [torch.tensor(fake)])
    assert found.item() == pytest.approx(loss)


def test_generator_hinge_by_hand() -> None:
    logits = torch.tensor([3.0, -1.0, 4.0], requires_grad=True)
    loss = generator_hinge([logits])
    assert loss.item() == pytest.approx(-2.0)
    loss.backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.full((3,), -1 / 3))


def test_each_discriminator_has_the_same_say() -> None:
    many, one = torch.zeros(100), torch.full((1,), 4.0)
    assert generator_hinge([many, one]).item() == pytest.approx(-2.0)
    assert discriminator_hinge([many, one], [many, -one]).item() == pytest.approx(0.5)


def test_the_adaptive_weight_makes_both_pull_alike() -> None:
    gradient, adversarial = torch.full((4,), 3.0), torch.full((4,), 0.5)
    assert adaptive_weight(gradient, adversarial).item() == pytest.approx(6.0, rel=1e-3)
    assert adaptive_weight(gradient, torch.zeros(4)).item() == pytest.approx(1e4)
    assert not adaptive_weight(gradient.requires_grad_(), adversarial).requires_grad


def test_feature_matching_by_hand_and_for_the_generator_only() -> None:
    real = [torch.zeros(2, 3, requires_grad=True), torch.ones(4, requires_grad=True)]
    fake = [torch.full((2, 3), 2.0, requires_grad=True), torch.ones(4, requires_grad=True)]
    loss = feature_matching(Judgement([], real), Judgement([], fake))
    assert loss.item() == pytest.approx((2 + 0) / 2)
    loss.backward()
    assert fake[0].grad is not None
    assert real[0].grad is None


def test_lecam_holds_logits_near_the_means_of_the_other_side() -> None:
    lecam = LeCAM(1, decay=0.5)
    lecam.update(real=torch.tensor([2.0]), fake=torch.tensor([-2.0]))
    assert (lecam.real.tolist(), lecam.fake.tolist()) == ([1.0], [-1.0])
    real, fake = torch.tensor([1.0]), torch.tensor([-1.0])
    assert lecam.penalty([real], [fake]).item() == pytest.approx(2.0**2 + 2.0**2)
    far = lecam.penalty([3 * real], [3 * fake]).item()
    assert far == pytest.approx(4.0**2 + 4.0**2)  # running away costs more
    assert lecam.penalty([-real], [-fake]).item() == 0


def test_lecam_holds_each_discriminator_near_its_own_means() -> None:
    lecam = LeCAM(2, decay=0.0)
    lecam.update(real=torch.tensor([2.0, 30.0]), fake=torch.tensor([-2.0, 10.0]))
    real, fake = [torch.tensor([1.0]), torch.tensor([20.0])], [torch.zeros(1), torch.tensor([25.0])]
    by_hand = ((1 + 2) ** 2 + (2 - 0) ** 2) + ((20 - 10) ** 2 + (30 - 25) ** 2)
    assert lecam.penalty(real, fake).item() == pytest.approx(by_hand / 2)


def test_lecam_forgets_a_skipped_step_and_loads_what_older_versions_saved() -> None:
    lecam = LeCAM(2, decay=0.5)
    lecam.load({"real": [2.0, 4.0], "fake": [-2.0, -4.0]})
    for took, expected in ((False, [2.0, 4.0]), (True, [1.0, 2.0])):
        new = torch.zeros(2) if took else torch.full((2,), math.nan)
        lecam.update(real=new, fake=new, took=torch.tensor(took))
        assert lecam.real.tolist() == expected
        assert lecam.fake.tolist() == [-mean for mean in expected]
    again = LeCAM(2)
    again.load(lecam.state())
    assert again.real.tolist() == [1.0, 2.0]
