"""The discriminators judge patches, at the full frame rate first, and can learn to."""

import re
from dataclasses import replace

import pytest
import torch

from vqvdm.errors import UserError
from vqvdm.tokenizer.discriminator import (
    DiscriminatorConfig,
    Discriminators,
    PatchDiscriminator,
    refuse_small,
)
from vqvdm.tokenizer.losses import discriminator_hinge

FIRST = torch.zeros(4, dtype=torch.long)


@pytest.mark.parametrize("size", [(8, 32, 32), (16, 64, 64), (8, 32, 48)])
@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("temporal", [True, False])
def test_a_logit_for_each_patch(levels: int, size: tuple[int, int, int], temporal: bool) -> None:
    t, h, w = size
    logits, features = PatchDiscriminator(4, levels, temporal)(torch.randn(2, 3, t, h, w))
    halvings = 2 ** (levels - 1)
    frames = t // halvings if temporal else t
    assert logits.shape == (2, 1, frames, h // 4 // halvings, w // 4 // halvings)
    assert len(features) == levels


def test_a_first_level_of_stride_two_judges_patches_half_as_large() -> None:
    net = Discriminators(DiscriminatorConfig(width=4, levels=2, stride=2))
    video, image = net(torch.randn(4, 3, 8, 32, 32), FIRST).logits
    assert video.shape == (4, 1, 4, 8, 8)
    assert image.shape == (4, 1, 1, 8, 8)
    with pytest.raises(UserError, match="give 2 or 4"):
        DiscriminatorConfig(stride=3).check()


def test_the_first_level_keeps_every_frame_and_sees_a_patch() -> None:
    torch.manual_seed(0)
    x_BCTHW = torch.randn(1, 3, 8, 64, 64, requires_grad=True)
    logits, _ = PatchDiscriminator(4, 1, temporal=True)(x_BCTHW)
    assert logits.shape[2] == 8
    logits[0, 0, 0, 0, 0].backward()
    assert x_BCTHW.grad is not None
    seen = x_BCTHW.grad[0].abs().sum(0) > 0
    assert seen[0, :4, :4].all()
    assert not seen[4:].any()
    assert not seen[:, 16:].any()
    assert not seen[:, :, 16:].any()


def test_the_image_discriminator_sees_the_frame_it_is_shown() -> None:
    torch.manual_seed(0)
    net = Discriminators(DiscriminatorConfig(width=4, levels=2))
    x_BCTHW = torch.randn(2, 3, 8, 32, 32, requires_grad=True)
    _, logits = net(x_BCTHW, torch.tensor([5, 0])).logits
    logits.sum().backward()
    assert x_BCTHW.grad is not None
    seen_BT = x_BCTHW.grad.abs().sum(dim=(1, 3, 4)) > 0
    assert seen_BT.nonzero().tolist() == [[0, 5], [1, 0]]


def test_the_image_discriminator_can_be_left_out() -> None:
    net = Discriminators(DiscriminatorConfig(width=4, levels=2, image=False))
    judgement = net(torch.randn(2, 3, 8, 32, 32), FIRST[:2])
    assert len(judgement.logits) == 1
    assert len(judgement.features) == 2


def test_a_judgement_is_taken_apart() -> None:
    net = Discriminators(DiscriminatorConfig(width=4, levels=2))
    x, y = torch.randn(2, 2, 3, 8, 32, 32)
    first, second = net(torch.cat([x, y]), FIRST).halves()
    for part, alone in ((first, net(x, FIRST[:2])), (second, net(y, FIRST[:2]))):
        torch.testing.assert_close(part.logits, alone.logits)
        torch.testing.assert_close(part.features, alone.features)


def test_it_learns_to_tell_real_from_fake() -> None:
    torch.manual_seed(0)
    net = Discriminators(DiscriminatorConfig(width=8, levels=2, image=False))
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    real, fake = torch.randn(4, 3, 4, 16, 16), torch.randn(4, 3, 1, 16, 16).expand(4, 3, 4, 16, 16)
    for _ in range(30):  # each frame is as likely in both: only motion tells them apart
        loss = discriminator_hinge(net(real, FIRST).logits, net(fake, FIRST).logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert net(real, FIRST).logits[0].mean() > 0.3
    assert net(fake, FIRST).logits[0].mean() < -0.3


def test_the_generator_hears_of_it() -> None:
    y_BCTHW = torch.randn(1, 3, 8, 32, 32, requires_grad=True)
    net = Discriminators(DiscriminatorConfig(width=4, levels=3))
    net(y_BCTHW, FIRST[:1]).logits[0].mean().backward()
    assert y_BCTHW.grad is not None
    assert (y_BCTHW.grad.abs().sum(dim=(0, 1, 3, 4)) > 0).all()


@pytest.mark.parametrize(
    ("levels", "frames", "size"),
    [(4, 4, 64), (3, 4, 64), (4, 8, 64), (4, 16, 8), (3, 16, 8), (3, 16, 16), (2, 1, 32)],
)
@pytest.mark.parametrize("stride", [2, 4])
def test_clips_are_refused_that_the_nets_cannot_take(
    levels: int, frames: int, size: int, stride: int
) -> None:
    def fits(config: DiscriminatorConfig) -> bool:
        nets, x_BCTHW = Discriminators(config), torch.zeros(2, 3, frames, size, size)
        try:
            sum(logits.mean() for logits in nets(x_BCTHW, torch.zeros(2).long()).logits).backward()
        except RuntimeError:
            return False
        return True

    config = DiscriminatorConfig(4, levels, stride)
    if fits(config):
        refuse_small(config, frames, size, size)
        return
    with pytest.raises(UserError, match=rf"{frames} frames of {size}x{size} are too small") as told:
        refuse_small(config, frames, size, size)
    advice = re.search(r"--discriminator\.levels (\d)", str(told.value))
    fewer = [n for n in range(1, levels) if fits(replace(config, levels=n))]
    assert [int(each) for each in advice.groups()] == fewer[-1:] if advice else not fewer
