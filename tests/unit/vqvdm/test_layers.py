"""Building blocks: what they keep, what they mix and where they start."""

import math

import pytest
import torch
from torch import nn

from vqvdm.layers import (
    Chain,
    Conv3d,
    DepthToSpace,
    Size3,
    SpaceToDepth,
    conv3d,
    group_norm,
    product,
    sinusoidal_encoding,
    zero,
    zero_last,
)


def without_mixing(module: SpaceToDepth | DepthToSpace) -> nn.Module:
    """Leave only the rearrangement: the 1x1x1 convolution becomes the identity."""
    nn.init.dirac_(module.mix.weight)
    assert module.mix.bias is not None
    nn.init.zeros_(module.mix.bias)
    return module


@pytest.mark.parametrize("block", [(1, 1, 1), (2, 4, 4), (1, 2, 3), (3, 1, 2)])
def test_depth_to_space_undoes_space_to_depth(block: Size3) -> None:
    x_BCTHW = torch.randn(2, 3, 6, 8, 12)
    folded = without_mixing(SpaceToDepth(3, 3 * math.prod(block), block))(x_BCTHW)
    expected = [size // stride for size, stride in zip((6, 8, 12), block, strict=True)]
    assert list(folded.shape) == [2, 3 * math.prod(block), *expected]
    unfolded = without_mixing(DepthToSpace(3 * math.prod(block), 3, block))(folded)
    torch.testing.assert_close(unfolded, x_BCTHW)


def test_a_folded_position_sees_its_own_block_alone() -> None:
    x_BCTHW = torch.randn(1, 2, 4, 4, 4, requires_grad=True)
    SpaceToDepth(2, 5, (2, 2, 2))(x_BCTHW)[0, :, 1, 0, 1].sum().backward()
    assert x_BCTHW.grad is not None
    seen = x_BCTHW.grad[0].abs().sum(0) > 0
    expected = torch.zeros(4, 4, 4, dtype=torch.bool)
    expected[2:, :2, 2:] = True
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("channels", [4, 6, 8, 12, 24, 64, 96, 100, 128, 192, 1024])
def test_group_norm_has_large_enough_groups(channels: int) -> None:
    norm = group_norm(channels)
    assert norm.num_groups <= 32
    assert channels % norm.num_groups == 0
    assert channels // norm.num_groups >= 4
    y = norm(5 + 3 * torch.randn(2, channels, 4, 8, 8))
    assert abs(y.mean().item()) < 1e-3
    assert y.std().item() == pytest.approx(1, abs=0.02)


def test_zero_silences_a_layer() -> None:
    layer = nn.Linear(3, 4)
    assert zero(layer) is layer
    assert not layer(torch.randn(2, 3)).any()


@pytest.mark.parametrize("factorised", [False, True])
def test_zero_last_silences_a_convolution_that_can_still_learn(factorised: bool) -> None:
    conv = zero_last(conv3d(2, 4, factorised))
    y_BCTHW = conv(torch.randn(1, 2, 3, 4, 5))
    assert not y_BCTHW.any()
    (y_BCTHW - 1).square().sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in conv.parameters())


@pytest.mark.parametrize("factorised", [False, True])
def test_conv3d_keeps_sizes_and_sees_every_neighbour(factorised: bool) -> None:
    x_BCTHW = torch.randn(1, 2, 5, 7, 9, requires_grad=True)
    y_BCTHW = conv3d(2, 6, factorised)(x_BCTHW)
    assert y_BCTHW.shape == (1, 6, 5, 7, 9)
    y_BCTHW[0, :, 2, 3, 4].sum().backward()
    assert x_BCTHW.grad is not None
    seen = x_BCTHW.grad[0].abs().sum(0) > 0
    assert seen[1:4, 2:5, 3:6].all()
    assert seen.sum() == 27


def test_a_factorised_convolution_is_cheaper() -> None:
    full, factorised = (
        sum(p.numel() for p in conv3d(32, 32, f).parameters()) for f in (False, True)
    )
    assert factorised < full / 2


def test_sinusoidal_encoding_against_its_formula() -> None:
    values = [0.0, 1.0, 250.0]
    encoded = sinusoidal_encoding(torch.tensor(values), 8)
    assert encoded.shape == (3, 8)
    angles = [[v * 10_000 ** (-i / 4) for i in range(4)] for v in values]
    expected = [[*map(math.cos, row), *map(math.sin, row)] for row in angles]
    torch.testing.assert_close(encoded, torch.tensor(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int64])
def test_sinusoidal_encoding_is_float32(dtype: torch.dtype) -> None:
    encoded = sinusoidal_encoding(torch.tensor([7], dtype=dtype), 16)
    assert encoded.dtype == torch.float32
    torch.testing.assert_close(encoded, sinusoidal_encoding(torch.tensor([7.0]), 16))


def test_product_of_strides() -> None:
    assert product([(2, 4, 4), (2, 2, 1), (1, 3, 2)]) == (4, 24, 8)


def test_the_gradient_of_the_last_weight_is_autograds() -> None:
    torch.manual_seed(0)
    layer = DepthToSpace(5, 3, (1, 2, 3))
    x_BCTHW, gradient = torch.randn(2, 5, 2, 3, 4), torch.randn(2, 3, 2, 6, 12)
    (expected,) = torch.autograd.grad(layer(x_BCTHW), layer.mix.weight, gradient)
    found_OC = layer.weight_gradient(x_BCTHW, gradient)
    torch.testing.assert_close(found_OC, expected[:, :, 0, 0, 0], atol=1e-5, rtol=1e-5)
    half = layer.weight_gradient(x_BCTHW.half(), 1e-9 * gradient)
    torch.testing.assert_close(1e9 * half, found_OC, atol=0.05, rtol=0.01)  # does not vanish


def test_a_chain_is_the_sequence_with_its_names() -> None:
    torch.manual_seed(0)
    chain = Chain(nn.Linear(2, 3), nn.SiLU(), nn.Linear(3, 1))
    sequence = nn.Sequential(*chain)
    assert list(chain.state_dict()) == list(sequence.state_dict())
    x = torch.randn(4, 2)
    assert torch.equal(chain(x), sequence(x))
    assert type(chain[:-1]) is Chain


@pytest.mark.parametrize("layout", [torch.channels_last_3d, torch.contiguous_format])
def test_a_convolution_lays_tensors_and_gradients_out(layout: torch.memory_format) -> None:
    (other,) = {torch.channels_last_3d, torch.contiguous_format} - {layout}
    plain, conv = (conv3d(4, 6) for _ in range(2))
    assert isinstance(conv, Conv3d)
    conv.load_state_dict(plain.state_dict())
    conv.layout = layout
    x_BCTHW = torch.randn(2, 4, 3, 5, 6).contiguous(memory_format=other).requires_grad_()
    weight = torch.randn(2, 6, 3, 5, 6).contiguous(memory_format=other)
    seen = []
    y, expected = conv(x_BCTHW), plain(x_BCTHW)
    assert y.is_contiguous(memory_format=layout)
    # What arrives at the convolution itself, whose gradient function has the layout's before it.
    y.grad_fn.next_functions[0][0].register_prehook(lambda gradients: seen.extend(gradients))
    (found,) = torch.autograd.grad((y * weight).sum(), x_BCTHW)
    (wanted,) = torch.autograd.grad((expected * weight).sum(), x_BCTHW)
    assert [gradient.is_contiguous(memory_format=layout) for gradient in seen] == [True]
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(found, wanted)
