"""A 3D VQGAN: pixels (B, 3, T, H, W) in [-1, 1] to latents at 1/4 x 1/8 x 1/8 and back.

Blocks of pixels are folded into channels before the first convolution, because convolutions at
full resolution would dominate the cost of the encoder and the decoder.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vqvdm.errors import UserError
from vqvdm.layers import (
    Chain,
    Conv3d,
    DepthToSpace,
    Size3,
    SpaceToDepth,
    conv3d,
    group_norm,
    product,
    zero_last,
)
from vqvdm.ranges import Count, CountFrom0, check_ranges
from vqvdm.tokenizer.base import Tokenizer, TokenizerConfig
from vqvdm.tokenizer.quantize import Codebook, FiniteScalar


@dataclass(frozen=True)
class VQGANConfig(TokenizerConfig):
    """Shape of the tokenizer."""

    blocks: tuple[tuple[Count, Count, Count], ...] = ((2, 4, 4), (2, 2, 2))
    """(t, h, w) blocks folded into channels at each level; their product is the compression."""
    widths: tuple[Count, ...] = (64, 192)
    """Channels at each level."""
    depths: tuple[CountFrom0, ...] = (2, 2)
    """Residual blocks at each level."""
    decoder_widths: tuple[Count, ...] | None = None
    """Channels at each level of the decoder; by default the encoder's."""
    decoder_depths: tuple[CountFrom0, ...] | None = None
    """Residual blocks at each level of the decoder; by default the encoder's."""
    factorised: bool = False
    """Split 3x3x3 convolutions into 1x3x3 and 3x1x1."""
    quantizer: Literal["vq", "fsq"] = "vq"
    levels: tuple[CountFrom0, ...] = (8, 8, 8)
    """FSQ levels, one for each latent channel."""
    codebook_size: Count = 1024
    """VQ codes."""
    codebook_channels: Count = 3
    """VQ latent channels."""
    cosine: bool = False
    """Compare VQ codes by direction alone."""

    @property
    def latent_channels(self) -> int:
        return len(self.levels) if self.quantizer == "fsq" else self.codebook_channels

    @property
    def compression(self) -> Size3:
        """Pixels per latent position along (t, h, w)."""
        return product(self.blocks)

    def check(self) -> None:
        """`UserError` unless every level is described and FSQ has at least 2 levels a channel."""
        check_ranges(self)
        if not self.blocks:
            raise UserError("blocks describe levels: give at least one")
        described = (self.widths, self.depths, self.decoder_widths, self.decoder_depths)
        if any(shape is not None and len(shape) != len(self.blocks) for shape in described):
            raise UserError("blocks, widths and depths describe levels: give as many of each")
        if self.quantizer == "fsq" and not (self.levels and min(self.levels) >= 2):
            listing = " ".join(map(str, self.levels)) or "none"
            raise UserError(f"FSQ levels are {listing}: give each latent channel at least 2")


class ResidualBlock(nn.Module):
    """Two normalised 3D convolutions beside a skip connection; the second starts at zero."""

    def __init__(self, channels: int, factorised: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            group_norm(channels),
            nn.SiLU(),
            conv3d(channels, channels, factorised),
            group_norm(channels),
            nn.SiLU(),
            zero_last(conv3d(channels, channels, factorised)),
        )

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return x_BCTHW + self.branch(x_BCTHW)


class VQGAN(Tokenizer):
    """Encoder, quantiser and decoder."""

    config: VQGANConfig

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        config.check()
        self.config = config
        widths = config.decoder_widths or config.widths
        depths = config.decoder_depths or config.depths

        encoder: list[nn.Module] = []
        channels = 3
        levels = zip(config.blocks, config.widths, config.depths, strict=True)
        for block, width, depth in levels:
            encoder.append(SpaceToDepth(channels, width, block))
            encoder += [ResidualBlock(width, config.factorised) for _ in range(depth)]
            channels = width
        encoder += [group_norm(channels), nn.SiLU()]
        self.encoder = Chain(*encoder, Conv3d(channels, config.latent_channels, 1))

        # Never on the meta device: FSQ computes tables that are not in the weights' file.
        with torch.device("cpu"):
            self.quantizer = (
                FiniteScalar(config.levels)
                if config.quantizer == "fsq"
                else Codebook(config.codebook_channels, config.codebook_size, config.cosine)
            )

        decoder: list[nn.Module] = [conv3d(config.latent_channels, widths[-1])]
        for level in reversed(range(len(widths))):
            width = widths[level]
            out = widths[level - 1] if level else 3
            decoder += [ResidualBlock(width, config.factorised) for _ in range(depths[level])]
            decoder += [group_norm(width), nn.SiLU()]
            decoder.append(DepthToSpace(width, out, config.blocks[level]))
        self.decoder = Chain(*decoder)
