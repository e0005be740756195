"""No tokenizer: the generator works on pixels, as in VDM (Ho et al., 2022).

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vqvdm.layers import Size3
from vqvdm.tokenizer.base import TokenizerConfig

PIXELS: dict[str, Any] = {"blocks": []}
"""The model configuration in its config.json: no blocks, so a latent position is a pixel."""


@dataclass(frozen=True)
class PixelsConfig(TokenizerConfig):
    """Pixels have no shape of their own."""

    @property
    def latent_channels(self) -> int:
        return 3

    @property
    def compression(self) -> Size3:
        return 1, 1, 1

    def check(self) -> None:
        """Does nothing: there is nothing to describe."""


class Pixels(nn.Module):
    """Pixels (B, 3, T, H, W) in [-1, 1] are their own raw latents."""

    config = PixelsConfig()

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Identity()

    def encode(self, x_BCTHW: Tensor) -> Tensor:
        return x_BCTHW.float()

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        return self.decoder(z_BCTHW.float())
