"""The U-Net: its blocks, the attention at its levels, and which shapes are refused."""

from dataclasses import replace
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from vqvdm.diffusion.attention import JointAttention, SpatialAttention, TemporalAttention
from vqvdm.diffusion.conditioning import NetInputs
from vqvdm.diffusion.unet import Block, ResidualBlock, UNet, UNetConfig
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


def tiny(multipliers: tuple[int, ...] = (1, 2), **changes: Any) -> UNet:
    torch.manual_seed(0)
    config = UNetConfig(
        width=8,
        multipliers=multipliers,
        depths=(1,) * len(multipliers),
        head_width=8,
        **changes,
    )
    return UNet(config, NetInputs(4, CLASSES))


SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "factorised": {"factorised": True},
    "in seconds": {"temporal_positions": "seconds"},
    "joint below": {"joint_attention_from": 1},
    "joint": {"joint_attention_from": 0},
}
every_shape = pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)


def middle_block(**changes: Any) -> Block:
    block = tiny(**changes).middle
    assert isinstance(block, Block)
    return block


def predict(net: UNet, time: float = 0.5, label: int = 0, fps: float = 8.0) -> Tensor:
    """One fixed latent under the conditions given."""
    z_BCTHW = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    conditions = torch.tensor([time]), torch.tensor([label]), torch.tensor([fps])
    with torch.no_grad():
        return net(z_BCTHW, *conditions)


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
        ({"head_width": 0}, "head_width must be at least 1"),
        ({"width": 50}, "do not divide 100"),
        ({"width": 18, "head_width": 9, "joint_attention_from": 1}, "are 9 wide"),
        ({"head_width": 4, "joint_attention_from": 1}, "are 4 wide"),
        ({"width": 18, "head_width": 9, "temporal_positions": "seconds"}, "are 9 wide"),
    ],
)
def test_shapes_that_cannot_be_are_refused(change: dict[str, Any], said: str) -> None:
    shape = {"width": 32, "multipliers": (1, 2), "depths": (1, 1), "head_width": 32} | change
    with pytest.raises(UserError, match=said):
        UNet(UNetConfig(**shape), NetInputs(3, 2))


def test_spatial_attention_begins_at_a_level() -> None:
    config = UNetConfig(width=8, multipliers=(1, 2), depths=(1, 1), head_width=8)
    net = UNet(replace(config, spatial_attention_from=1), NetInputs(3, 2))
    kinds = [isinstance(b.spatial, SpatialAttention) for b in net.modules() if isinstance(b, Block)]
    assert kinds == [False, True, True, True, False]


def test_joint_attention_begins_at_a_level() -> None:
    net = tiny(joint_attention_from=1)
    kinds = [
        {type(part) for part in block.children()} - {ResidualBlock}
        for block in net.modules()
        if isinstance(block, Block)
    ]
    apart, joint = {SpatialAttention, TemporalAttention}, {JointAttention}
    assert kinds == [apart, joint, joint, joint, apart]


def test_the_frame_rate_reaches_attention_that_knows_seconds() -> None:
    """Of nets whose encoding of the frame rate says nothing, only these notice it."""
    for changes, notices in zip(SHAPES.values(), (False, False, True, True, True), strict=True):
        net = stirred(tiny(**changes))
        nn.init.zeros_(net.conditioning.fps[-1].weight)
        assert torch.equal(predict(net, fps=8.0), predict(net, fps=16.0)) != notices


@every_shape
def test_a_block_starts_as_the_identity(changes: dict[str, Any]) -> None:
    block, x_BCTHW = middle_block(**changes), torch.randn(2, BLOCK_WIDTH, 3, 4, 4)
    told = torch.randn(2, block.residual.condition.in_features), torch.rand(2, 3)
    assert torch.equal(block(x_BCTHW, *told), x_BCTHW)
    assert not torch.allclose(stirred(block)(x_BCTHW, *told), x_BCTHW, atol=1e-3)
