"""No tokenizer: the generator works on pixels, as in VDM (Ho et al., 2022).

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

PIXELS: dict[str, Any] = {"blocks": []}
"""The model configuration in its config.json: no blocks, so a latent position is a pixel."""


class Pixels(nn.Module):
    """Pixels (B, 3, T, H, W) in [-1, 1] are their own raw latents."""

    def encode(self, x_BCTHW: Tensor) -> Tensor:
        return x_BCTHW.float()

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        return z_BCTHW.float()
