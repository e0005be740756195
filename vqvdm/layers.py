"""Building blocks that tokenizer and denoiser share.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from vqvdm.transfer import laid

Size3 = tuple[int, int, int]


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with at most 32 groups of at least 4 channels (Wu & He, 2018)."""
    fitting = [g for g in (32, 16, 8, 4, 2) if channels % g == 0 and channels // g >= 4]
    return nn.GroupNorm(max(fitting, default=1), channels)


def zero(module: nn.Module) -> nn.Module:
    """Zero the parameters of an output layer, so that its residual branch starts as identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def zero_last(module: nn.Module) -> nn.Module:
    """Zero the last layer of a sequence, or a single module."""
    zero(module[-1] if isinstance(module, nn.Sequential) else module)
    return module


class Chain(nn.Sequential):
    """A sequence that `torch.compile` takes as one piece.

    It skips the code of PyTorch's own modules: of an `nn.Sequential` that is compiled in place,
    each layer would be compiled by itself.
    """

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


class Conv3d(nn.Conv3d):
    """A 3D convolution that lays its input, its output and their gradients out for itself.

    CUDA's group normalisation leaves tensors and gradients in another layout than cuDNN's
    convolutions compute in. cuDNN would copy each of them, forwards and backwards; here the code
    that `torch.compile` generates writes them where they belong.
    """

    layout: torch.memory_format | None = None
    """None leaves tensors as they come."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if self.layout is None:
            return super().forward(x_BCTHW)
        return laid(super().forward(laid(x_BCTHW, self.layout)), self.layout)


def conv3d(channels_in: int, channels_out: int, factorised: bool = False) -> nn.Module:
    """A 3x3x3 convolution, or a 1x3x3 followed by a 3x1x1 one at 4/9 of the cost."""
    if not factorised:
        return Conv3d(channels_in, channels_out, 3, padding=1)
    return nn.Sequential(
        Conv3d(channels_in, channels_out, (1, 3, 3), padding=(0, 1, 1)),
        Conv3d(channels_out, channels_out, (3, 1, 1), padding=(1, 0, 0)),
    )


class SpaceToDepth(nn.Module):
    """Fold blocks of (t, h, w) positions into channels, then mix them with a 1x1x1 convolution."""

    def __init__(self, channels_in: int, channels_out: int, block: Size3) -> None:
        super().__init__()
        self.block = block
        self.mix = nn.Conv3d(channels_in * math.prod(block), channels_out, 1)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        p, q, r = self.block
        folded = rearrange(x_BCTHW, "b c (t p) (h q) (w r) -> b (c p q r) t h w", p=p, q=q, r=r)
        return self.mix(folded)


class DepthToSpace(nn.Module):
    """Inverse of `SpaceToDepth`: mix channels, then unfold them into (t, h, w) blocks."""

    def __init__(self, channels_in: int, channels_out: int, block: Size3) -> None:
        super().__init__()
        self.block = block
        self.mix = Conv3d(channels_in, channels_out * math.prod(block), 1)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        p, q, r = self.block
        return rearrange(
            self.mix(x_BCTHW), "b (c p q r) t h w -> b c (t p) (h q) (w r)", p=p, q=q, r=r
        )

    def weight_gradient(self, x_BCTHW: Tensor, gradient_BCTHW: Tensor) -> Tensor:
        """The gradient of the weight, (out, in), from an input and the gradient of its output.

        In float32, whatever the layer computes in.
        """
        p, q, r = self.block
        folded = rearrange(
            gradient_BCTHW, "b c (t p) (h q) (w r) -> b (c p q r) t h w", p=p, q=q, r=r
        )
        return torch.einsum("bothw,bcthw->oc", folded.float(), x_BCTHW.float())


def sinusoidal_encoding(value_B: Tensor, dim: int) -> Tensor:
    """Sines and cosines of a scalar at geometric frequencies, from 1 down to nearly 1/10,000
    (Vaswani et al., 2017, section 3.5).

    Returns (B, dim) in float32; `dim` must be even.
    """
    half = dim // 2
    exponents = torch.arange(half, device=value_B.device, dtype=torch.float32) / half
    angles = value_B.float()[:, None] * torch.exp(-math.log(10_000.0) * exponents)[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def product(blocks: Sequence[Size3]) -> Size3:
    """The total (t, h, w) stride of several blocks in a row."""
    t, h, w = (math.prod(axis) for axis in zip(*blocks, strict=True))
    return t, h, w
