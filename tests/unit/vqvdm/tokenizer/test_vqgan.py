"""The tokenizer: sizes, spaces and where it starts."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from vqvdm.errors import UserError
from vqvdm.tokenizer.losses import LossConfig, reconstruction_loss
from vqvdm.tokenizer.vqgan import VQGAN, ResidualBlock, VQGANConfig

SHAPE: dict[str, Any] = {
    "blocks": ((2, 2, 2), (1, 2, 4)),
    "widths": (8, 12),
    "depths": (1, 2),
    "factorised": False,
    "quantizer": "fsq",
    "levels": (5, 4, 3),
    "codebook_size": 16,
    "codebook_channels": 4,
}
QUANTIZERS = ["fsq", "vq"]


def tiny(**changes: Any) -> VQGAN:
    torch.manual_seed(0)
    return VQGAN(VQGANConfig(**SHAPE | changes))


def clips(frames: int = 4, height: int = 8, width: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, frames, height, width, generator=generator) * 2 - 1


def test_compression_is_the_product_of_the_blocks() -> None:
    config = VQGANConfig(**SHAPE)
    assert config.compression == (2, 4, 8)
    assert config.latent_shape(6, 8, 16) == (3, 3, 2, 2)
    assert VQGANConfig(**SHAPE | {"quantizer": "vq"}).latent_shape(2, 4, 8) == (4, 1, 1, 1)


@pytest.mark.parametrize(
    ("axis", "size"), [(0, 1), (0, 7), (1, 0), (1, 3), (1, 30), (2, 4), (2, 63)]
)
def test_a_size_that_does_not_divide_is_refused_with_two_that_do(axis: int, size: int) -> None:
    config = VQGANConfig(**SHAPE)
    sizes = [8, 8, 8]
    sizes[axis] = size
    with pytest.raises(UserError, match=("frames", "height", "width")[axis]) as caught:
        config.latent_shape(*sizes)
    cure = re.search(r"use (\d+) or (\d+)", str(caught.value))
    assert cure is not None
    for suggestion in map(int, cure.groups()):
        sizes[axis] = suggestion
        assert config.latent_shape(*sizes)


def test_encoding_refuses_such_a_clip() -> None:
    with pytest.raises(UserError, match="frames"):
        tiny().encode(clips(frames=5))


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("factorised", [False, True])
@pytest.mark.parametrize("size", [(4, 8, 16), (2, 12, 8)])
def test_there_and_back(quantizer: str, factorised: bool, size: tuple[int, int, int]) -> None:
    vqgan = tiny(quantizer=quantizer, factorised=factorised).eval()
    x_BCTHW = clips(*size)
    z_BCTHW = vqgan.encode(x_BCTHW)
    assert z_BCTHW.shape == (2, *vqgan.config.latent_shape(*size))
    assert z_BCTHW.dtype == torch.float32
    y_BCTHW = vqgan.decode(z_BCTHW)
    assert y_BCTHW.shape == x_BCTHW.shape
    reconstruction, quantized = vqgan(x_BCTHW)
    torch.testing.assert_close(reconstruction, y_BCTHW)
    assert quantized.indices_BTHW.shape == (2, *z_BCTHW.shape[2:])


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_decoding_quantises_what_a_sampler_made(quantizer: str) -> None:
    vqgan, x_BCTHW = tiny(quantizer=quantizer), clips()
    vqgan(x_BCTHW)  # a codebook is made of the first batch
    vqgan.eval()
    sampled = vqgan.encode(x_BCTHW)
    z_BCTHW = sampled + 0.1 * torch.randn_like(sampled)
    codes = vqgan.quantizer(z_BCTHW).z_BCTHW
    assert not torch.allclose(z_BCTHW, codes, atol=1e-2)
    torch.testing.assert_close(vqgan.decode(z_BCTHW), vqgan.decoder(codes))


def test_raw_latents_are_bounded_and_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        z_BCTHW = tiny().encode(1000 * clips())
    assert z_BCTHW.dtype == torch.float32
    assert z_BCTHW.abs().max() <= 1


@pytest.mark.parametrize("factorised", [False, True])
def test_a_residual_block_starts_as_the_identity(factorised: bool) -> None:
    modules = tiny(factorised=factorised).modules()
    blocks = [module for module in modules if isinstance(module, ResidualBlock)]
    assert len(blocks) == 2 * (1 + 2)  # as many in the decoder
    for block in blocks:
        x_BCTHW = torch.randn(2, next(block.parameters()).shape[0], 2, 3, 4)
        assert torch.equal(block(x_BCTHW), x_BCTHW)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_every_parameter_learns_to_reconstruct(quantizer: str) -> None:
    vqgan, x_BCTHW = tiny(quantizer=quantizer), clips()
    optimizer = torch.optim.AdamW(vqgan.parameters(), 1e-2)
    config = LossConfig(l1=1.0, l2=1.0)
    start = {name: p.detach().clone() for name, p in vqgan.named_parameters()}
    losses = []
    for _ in range(12):
        y_BCTHW, quantized = vqgan(x_BCTHW)
        loss = reconstruction_loss(x_BCTHW, y_BCTHW, config) + quantized.loss
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in vqgan.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    stuck = [name for name, p in vqgan.named_parameters() if torch.equal(p, start[name])]
    assert not stuck


def test_levels_must_be_described_alike() -> None:
    with pytest.raises(UserError, match="as many of each"):
        tiny(depths=(1,))
    with pytest.raises(UserError, match="as many of each"):
        tiny(decoder_widths=())


@pytest.mark.parametrize(("levels", "said"), [((8, 1), "8 1"), ((8, 0, 8), "8 0 8"), ((), "none")])
def test_fsq_needs_something_to_round_to(levels: tuple[int, ...], said: str) -> None:
    with pytest.raises(UserError, match=f"FSQ levels are {said}: .* at least 2"):
        tiny(levels=levels)
