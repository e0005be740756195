"""Packed layers give what the plain ones give, and keep the layout of their weights."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vqvdm import cpu
from vqvdm.cpu import PackedConv3d, PackedLinear, pack, packs
from vqvdm.layers import Conv3d, conv3d

needs_bf16 = pytest.mark.skipif(not packs(torch.bfloat16), reason="no bf16 is packed here")
DTYPES = [(torch.float32, 1e-5), pytest.param(torch.bfloat16, 2e-2, marks=needs_bf16)]


def net(dtype: torch.dtype) -> nn.Sequential:
    """Convolutions and linear layers, some of them further down."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        conv3d(3, 16, factorised=True), nn.SiLU(), conv3d(16, 8), nn.Linear(8, 5)
    )
    return layers.to(dtype).requires_grad_(False)


def latent(size: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 4, size, 8, generator=generator).to(dtype)


def close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    error = (found.float() - expected.float()).norm() / expected.float().norm()
    return found.dtype == expected.dtype and error.item() < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize(
    "shape",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (1, 3, 3), "stride": (1, 2, 2), "padding": (0, 1, 1)},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 1, "groups": 4, "bias": False},
    ],
)
def test_a_packed_convolution_agrees_with_the_plain_one(
    shape: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv3d(8, 16, **shape).to(dtype).requires_grad_(False)
    packed = PackedConv3d(conv)
    # The first input decides on the layout; others must come out right as well.
    for batch, size in ((2, 8), (1, 8), (3, 16), (2, 5)):
        x_BCTHW = torch.randn(batch, 8, 6, size, size).to(dtype)
        assert close(packed(x_BCTHW), conv(x_BCTHW), tolerance)


@needs_bf16
@pytest.mark.parametrize("bias", [False, True])
def test_a_packed_linear_layer_agrees_with_the_plain_one(bias: bool) -> None:
    linear = nn.Linear(32, 48, bias=bias).bfloat16().requires_grad_(False)
    packed = PackedLinear(linear)
    for shape in ((5, 32), (2, 7, 32), (1, 32)):
        x = torch.randn(shape).bfloat16()
        assert close(packed(x), linear(x), 2e-2)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_nothing_is_left_to_be_rearranged_at_every_call(
    dtype: torch.dtype, tolerance: float
) -> None:
    plain = net(dtype)
    packed = copy.deepcopy(plain)
    pack(packed)
    kinds = {type(module) for module in packed.modules()}
    assert PackedConv3d in kinds
    assert not kinds & {Conv3d, nn.Conv3d}
    assert (nn.Linear in kinds) == (dtype == torch.float32)
    assert close(packed(latent(8, dtype)), plain(latent(8, dtype)), tolerance)
    convolutions = [m for m in packed.modules() if isinstance(m, PackedConv3d)]
    assert all(m.weight.is_mkldnn for m in convolutions)
    layouts = [id(m.weight) for m in convolutions]
    packed(latent(6, dtype))
    assert layouts == [id(m.weight) for m in convolutions]


def test_packing_again_changes_nothing() -> None:
    packed = net(torch.float32)
    pack(packed)
    expected = packed(latent(8, torch.float32))
    pack(packed)
    assert torch.equal(packed(latent(8, torch.float32)), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_a_processor_does_not_pack_stays_as_it_is(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = net(dtype)
    left = copy.deepcopy(plain)
    monkeypatch.setattr(cpu, "packs", lambda dtype: dtype == torch.float32)
    pack(left)
    assert [type(m) for m in left.modules()] == [type(m) for m in plain.modules()]
    assert torch.equal(left(latent(8, dtype)), plain(latent(8, dtype)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_net_of_any_type_runs_on_any_processor(dtype: torch.dtype) -> None:
    """Where its type is packed, and where it is not."""
    plain = net(dtype)
    made = copy.deepcopy(plain)
    pack(made)
    assert close(made(latent(8, dtype)), plain(latent(8, dtype)), 2e-2)
    packed = any(isinstance(module, PackedConv3d) for module in made.modules())
    assert packed == packs(dtype)
