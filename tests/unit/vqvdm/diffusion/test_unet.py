"""The denoiser: where it starts, what it depends on and which sizes it takes."""

from dataclasses import replace
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from vqvdm.diffusion import unet
from vqvdm.diffusion.unet import (
    Block,
    ResidualBlock,
    SpatialAttention,
    TemporalAttention,
    UNet,
    UNetConfig,
)
from vqvdm.errors import UserError

BLOCK_WIDTH = 16
"""Channels of the blocks in the middle."""
CLASSES = 3
Net = TypeVar("Net", bound=nn.Module)


def stirred(net: Net) -> Net:
    """As after some training: no weight is zero any more."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def tiny(multipliers: tuple[int, ...] = (1, 2), factorised: bool = False) -> UNet:
    torch.manual_seed(0)
    config = UNetConfig(
        width=8,
        multipliers=multipliers,
        depths=(1,) * len(multipliers),
        head_width=8,
        factorised=factorised,
    )
    return UNet(config, 4, CLASSES)


def middle_block(factorised: bool = False) -> Block:
    block = tiny(factorised=factorised).middle
    assert isinstance(block, Block)
    return block


def predict(net: UNet, time: float = 0.5, label: int = 0, fps: float = 8.0) -> Tensor:
    """One fixed latent under the conditions given."""
    z_BCTHW = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    conditions = torch.tensor([time]), torch.tensor([label]), torch.tensor([fps])
    with torch.no_grad():
        return net(z_BCTHW, *conditions)


@pytest.mark.parametrize("factorised", [False, True])
def test_it_starts_at_zero(factorised: bool) -> None:
    net = tiny(factorised=factorised)
    assert not predict(net).any()
    assert predict(stirred(net)).any()


def test_every_condition_counts() -> None:
    net = stirred(tiny())
    outputs = [
        predict(net),
        predict(net, time=0.8),
        predict(net, label=1),
        predict(net, label=CLASSES),  # no class
        predict(net, fps=16.0),
        predict(net, fps=7.9),
    ]
    for i, a in enumerate(outputs):
        for b in outputs[:i]:
            assert (a - b).abs().max() > 1e-4


def test_time_and_frame_rate_are_continuous() -> None:
    net = stirred(tiny())
    far = (predict(net, time=0.2) - predict(net, time=0.8)).norm()
    assert (predict(net, time=0.5) - predict(net, time=0.50001)).norm() < 0.05 * far
    far = (predict(net, fps=8) - predict(net, fps=16)).norm()
    assert (predict(net, fps=12.5) - predict(net, fps=12.5005)).norm() < 0.05 * far


@pytest.mark.parametrize("size", [(1, 2, 2), (3, 4, 6), (8, 8, 4)])
def test_other_lengths_and_sizes(size: tuple[int, int, int]) -> None:
    z_BCTHW = torch.randn(2, 4, *size)
    out = stirred(tiny())(z_BCTHW, torch.rand(2), torch.tensor([0, 3]), torch.tensor([8.0, 16.0]))
    assert out.shape == z_BCTHW.shape
    assert out.isfinite().all()


def test_a_latent_does_not_depend_on_its_neighbours() -> None:
    net, z_BCTHW = stirred(tiny()), torch.randn(3, 4, 2, 4, 4)
    conditions = torch.rand(3), torch.tensor([0, 1, 3]), torch.tensor([8.0, 16.0, 30.0])
    together = net(z_BCTHW, *conditions)
    for i in range(3):
        alone = net(z_BCTHW[i : i + 1], *(c[i : i + 1] for c in conditions))
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("multipliers", [(1,), (1, 2), (1, 2, 3)])
def test_every_block_is_residual_then_spatial_then_temporal(multipliers: tuple[int, ...]) -> None:
    net = tiny(multipliers)
    blocks = [module for module in net.modules() if isinstance(module, Block)]
    assert len(blocks) == 2 * len(multipliers) + 1
    for block in blocks:
        kinds = [type(child) for child in block.children()]
        assert kinds == [ResidualBlock, SpatialAttention, TemporalAttention]
    for kind in (ResidualBlock, SpatialAttention, TemporalAttention):
        assert sum(isinstance(module, kind) for module in net.modules()) == len(blocks)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"depths": (1,)}, "as many of each"),
        ({"width": 9}, "odd"),
        ({"head_width": 0}, "head_width is 0"),
        ({"width": 50}, "do not divide 100"),
    ],
)
def test_shapes_that_cannot_be_are_refused(change: dict[str, Any], said: str) -> None:
    shape = {"width": 32, "multipliers": (1, 2), "depths": (1, 1), "head_width": 32} | change
    with pytest.raises(UserError, match=said):
        UNet(UNetConfig(**shape), 3, 2)


def test_spatial_attention_begins_at_a_level() -> None:
    config = UNetConfig(width=8, multipliers=(1, 2), depths=(1, 1), head_width=8)
    net = UNet(replace(config, spatial_attention_from=1), 3, 2)
    kinds = [isinstance(b.spatial, SpatialAttention) for b in net.modules() if isinstance(b, Block)]
    assert kinds == [False, True, True, True, False]


@pytest.mark.parametrize("factorised", [False, True])
def test_a_block_starts_as_the_identity(factorised: bool) -> None:
    block, x_BCTHW = middle_block(factorised), torch.randn(2, BLOCK_WIDTH, 3, 4, 4)
    condition_BE = torch.randn(2, block.residual.condition.in_features)
    assert torch.equal(block(x_BCTHW, condition_BE), x_BCTHW)
    assert not torch.allclose(stirred(block)(x_BCTHW, condition_BE), x_BCTHW, atol=1e-3)


def seen(attention: nn.Module) -> Tensor:
    """Which positions (T, H, W) the output at (1, 2, 0) depends on."""
    x_BCTHW = torch.randn(1, BLOCK_WIDTH, 3, 4, 2, requires_grad=True)
    attention(x_BCTHW)[0, :, 1, 2, 0].square().sum().backward()
    assert x_BCTHW.grad is not None
    return x_BCTHW.grad[0].abs().sum(0) > 0


def test_attention_sees_its_frame_or_its_position() -> None:
    block, frame, position = stirred(middle_block()), *torch.zeros(2, 3, 4, 2, dtype=torch.bool)
    frame[1] = True
    position[:, 2, 0] = True
    assert torch.equal(seen(block.spatial), frame)
    assert torch.equal(seen(block.temporal), position)


def test_temporal_attention_tells_frames_apart() -> None:
    attention, x_BCTHW = stirred(middle_block()).temporal, torch.randn(1, BLOCK_WIDTH, 5, 2, 2)
    backwards = attention(x_BCTHW.flip(2)).flip(2)
    assert not torch.allclose(backwards, attention(x_BCTHW), atol=1e-4)


@pytest.mark.parametrize("factorised", [False, True])
def test_every_parameter_learns(factorised: bool) -> None:
    net = stirred(tiny(factorised=factorised))
    labels, fps = torch.arange(CLASSES + 1), torch.tensor([4.0, 8.0, 16.0, 30.0])
    net(torch.randn(4, 4, 2, 4, 4), torch.rand(4), labels, fps).square().sum().backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@pytest.mark.parametrize("length", [1, 4, 8])
def test_short_sequences_attend_without_products_of_matrices(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    shape = (7, 2, length, 16)
    given = [torch.randn(shape, generator=generator, requires_grad=True) for _ in range(3)]
    weights = torch.randn(shape, generator=generator)
    found, expected = (f(*given) for f in (unet.attend_short, unet.attend))
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((y * weights).sum(), given) for y in (found, expected)]
    torch.testing.assert_close(*gradients)
    halves = [each.bfloat16() for each in given]
    assert unet.attend_short(*halves).dtype == torch.bfloat16


@pytest.mark.parametrize("at_once", [2, 3, 7, 8])
def test_many_sequences_attend_in_parts(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unet, "SEQUENCES_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(7, 2, 5, 4, generator=generator, requires_grad=True) for _ in range(3)]
    weights = torch.randn(7, 2, 5, 4, generator=generator)
    found, expected = (f(*given) for f in (unet.attend_fused, unet.attend))
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((y * weights).sum(), given) for y in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_no_kernel_gets_more_sequences_than_its_grid_has_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes, attention = [], unet.F.scaled_dot_product_attention

    def note(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        sizes.append(len(q))
        return attention(q, k, v)

    monkeypatch.setattr(unet.F, "scaled_dot_product_attention", note)
    clips = torch.randn(256 * 16 * 16, 1, 2, 4)  # as in `ucf101`
    assert unet.attend_fused(clips, clips, clips).shape == clips.shape
    assert sizes == [65_535, 1]
