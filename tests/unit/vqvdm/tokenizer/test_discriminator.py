"""The discriminator judges patches, at the full frame rate first, and can learn to."""

import pytest
import torch

from vqvdm.tokenizer.discriminator import DiscriminatorConfig, VideoDiscriminator
from vqvdm.tokenizer.losses import discriminator_hinge


@pytest.mark.parametrize("size", [(8, 32, 32), (16, 64, 64), (8, 32, 48)])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_logit_for_each_patch(levels: int, size: tuple[int, int, int]) -> None:
    t, h, w = size
    net = VideoDiscriminator(DiscriminatorConfig(width=4, levels=levels))
    logits = net(torch.randn(2, 3, t, h, w))
    halvings = 2 ** (levels - 1)
    shape = (2, 1, t // halvings, h // 4 // halvings, w // 4 // halvings)
    assert logits.shape == shape


def test_the_first_level_keeps_every_frame_and_sees_a_patch() -> None:
    torch.manual_seed(0)
    x_BCTHW = torch.randn(1, 3, 8, 64, 64, requires_grad=True)
    logits = VideoDiscriminator(DiscriminatorConfig(width=4, levels=1))(x_BCTHW)
    assert logits.shape[2] == 8
    logits[0, 0, 0, 0, 0].backward()
    assert x_BCTHW.grad is not None
    seen = x_BCTHW.grad[0].abs().sum(0) > 0
    assert seen[0, :4, :4].all()
    assert not seen[4:].any()
    assert not seen[:, 16:].any()
    assert not seen[:, :, 16:].any()


def test_it_learns_to_tell_real_from_fake() -> None:
    torch.manual_seed(0)
    net = VideoDiscriminator(DiscriminatorConfig(width=8, levels=2))
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    real, fake = torch.randn(4, 3, 4, 16, 16), torch.randn(4, 3, 1, 16, 16).expand(4, 3, 4, 16, 16)
    for _ in range(30):  # each frame is as likely in both: only motion tells them apart
        loss = discriminator_hinge(net(real), net(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert net(real).mean() > 0.3
    assert net(fake).mean() < -0.3


def test_the_generator_hears_of_it() -> None:
    y_BCTHW = torch.randn(1, 3, 8, 32, 32, requires_grad=True)
    VideoDiscriminator(DiscriminatorConfig(width=4, levels=3))(y_BCTHW).mean().backward()
    assert y_BCTHW.grad is not None
    assert (y_BCTHW.grad.abs().sum(dim=(0, 1, 3, 4)) > 0).all()
