"""The discriminator of the VQGAN: judges overlapping patches of a video.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from vqvdm.layers import group_norm


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Shape of the discriminator."""

    width: int = 32
    levels: int = 3


class VideoDiscriminator(nn.Module):
    """A 3D PatchGAN (Isola et al., 2017, section 3.2.2): one logit a patch of frames."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for level in range(config.levels):
            width = config.width * 2**level
            # The first level shrinks space only: motion is judged at the full frame rate.
            kernel, stride = ((3, 6, 6), (1, 4, 4)) if level == 0 else ((4, 4, 4), (2, 2, 2))
            layers.append(nn.Conv3d(channels, width, kernel, stride, padding=1))
            if level:
                layers.append(group_norm(width))
            layers.append(nn.LeakyReLU(0.2))
            channels = width
        self.layers = nn.Sequential(*layers, nn.Conv3d(channels, 1, 3, padding=1))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Logits (B, 1, T', H', W'): positive means real."""
        return self.layers(x_BCTHW)
