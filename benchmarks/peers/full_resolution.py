"""A tokenizer of the shape of TATS's: 3x3x3 convolutions up to the full resolution of the clip.

Written from its description (Ge et al., 2022): width 32 doubling at each of three levels, strided
4x4x4 convolutions between them, one residual block a level in the encoder, two in the decoder.
For clips of 16x128x128 the encoder takes 47.7 GFLOP and the decoder 694 GFLOP; the test counts.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from torch import Tensor, nn

WIDTH, LATENT_CHANNELS = 32, 256
STRIDES = ((2, 2, 2), (2, 2, 2), (1, 2, 2))
"""From pixels to latents; the decoder undoes time first, so its last levels have all frames."""


class Down(nn.Module):
    """A 4x4x4 convolution that keeps every second position, of time only if requested."""

    def __init__(self, channels_in: int, channels_out: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels_in, channels_out, 4, stride)
        self.stride = stride

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        padding: list[int] = []
        for stride in reversed(self.stride):
            padding += [(5 - stride) // 2, (4 - stride) // 2]
        return self.conv(nn.functional.pad(x_BCTHW, padding))


class Up(nn.Module):
    """A transposed 4x4x4 convolution to twice the positions, of time only if requested."""

    def __init__(self, channels_in: int, channels_out: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose3d(channels_in, channels_out, 4, stride, padding=1)
        self.stride = stride

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        t = x_BCTHW.shape[2] * self.stride[0]
        if self.stride[0] == 1:  # one frame more, of which the last is dropped
            x_BCTHW = nn.functional.pad(x_BCTHW, (0, 0, 0, 0, 0, 1))
        return self.conv(x_BCTHW)[:, :, :t]


class Residual(nn.Module):
    """Two normalised 3x3x3 convolutions around a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.GroupNorm(32, channels), nn.SiLU()]
            layers += [nn.Conv3d(channels, channels, 3, padding=1)]
        self.branch = nn.Sequential(*layers)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return x_BCTHW + self.branch(x_BCTHW)


def encoder(width: int = WIDTH) -> nn.Sequential:
    """Pixels (B, 3, T, H, W) to latents (B, 256, T/4, H/8, W/8)."""
    layers: list[nn.Module] = [nn.Conv3d(3, width, 3, padding=1)]
    for level, stride in enumerate(STRIDES):
        channels = width * 2 ** (level + 1)
        layers += [Down(channels // 2, channels, stride), Residual(channels)]
    return nn.Sequential(
        *layers, nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv3d(channels, LATENT_CHANNELS, 1)
    )


def decoder(width: int = WIDTH) -> nn.Sequential:
    """Latents (B, 256, T/4, H/8, W/8) to pixels (B, 3, T, H, W)."""
    channels = width * 2 ** len(STRIDES)
    layers: list[nn.Module] = [nn.Conv3d(LATENT_CHANNELS, channels, 1)]
    layers += [nn.GroupNorm(32, channels), nn.SiLU()]
    for level, stride in enumerate(STRIDES):
        out = width * 2 ** (len(STRIDES) - level)
        layers += [Up(channels, out, stride), Residual(out), Residual(out)]
        channels = out
    return nn.Sequential(*layers, nn.Conv3d(channels, 3, 3, padding=1))
