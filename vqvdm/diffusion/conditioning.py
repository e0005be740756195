"""How conditions enter a denoiser: class, caption, frame rate and time as one vector, conditioning
frames as a channel of its input.

Shapes: B batch, T frames, H height, W width, E embedding, D width of a caption's embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqvdm.layers import sinusoidal_encoding, zero


@dataclass(frozen=True)
class NetInputs:
    """What a denoiser takes, beside the time and the frame rate of each clip."""

    latent_channels: int
    num_classes: int
    """Class index `num_classes` stands for "no class"."""
    intervals: bool = False
    """Whether it predicts for intervals of time, and takes how long each is."""
    known_frames: bool = False
    """Whether it takes conditioning frames, which one more channel of its input marks."""
    text_width: int = 0
    """Numbers in the embedding of a caption; 0 if it takes no captions."""


class Conditioning(nn.Module):
    """Encodes class, caption, frame rate and time as one vector (B, E).

    Class index `num_classes` stands for "no class". Classifier-free guidance and unlabelled data
    use it. With `intervals`, the length of an interval of time that ends at `time` is encoded too;
    with `text_width`, the standardised embedding of a caption, where zeros stand for "no caption".
    Both branches are zero-initialised and contribute nothing at first.
    """

    def __init__(self, inputs: NetInputs, width: int) -> None:
        super().__init__()
        embedding = 4 * width
        self.width = width
        self.class_embedding = nn.Embedding(inputs.num_classes + 1, embedding)
        self.time = nn.Sequential(
            nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.fps = nn.Sequential(
            nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        if inputs.intervals:
            self.interval = nn.Sequential(
                nn.Linear(width, embedding), nn.SiLU(), zero(nn.Linear(embedding, embedding))
            )
        if inputs.text_width:
            # Without a bias: no caption adds nothing to the class.
            self.text = zero(nn.Linear(inputs.text_width, embedding, bias=False))

    def forward(
        self,
        time_B: Tensor,
        class_B: Tensor,
        fps_B: Tensor,
        interval_B: Tensor | None = None,
        text_BD: Tensor | None = None,
    ) -> Tensor:
        classes = self.class_embedding(class_B)
        time = self.time(sinusoidal_encoding(1000 * time_B, self.width).to(classes.dtype))
        # The logarithm, because frame rates matter by their ratio.
        fps = self.fps(sinusoidal_encoding(100 * fps_B.log2(), self.width).to(classes.dtype))
        condition = time + fps + classes
        if interval_B is not None:
            encoded = sinusoidal_encoding(1000 * interval_B, self.width).to(classes.dtype)
            condition = condition + self.interval(encoded)
        if text_BD is not None:
            condition = condition + self.text(text_BD.to(classes.dtype))
        return F.silu(condition)


def mask_channel(is_known_BT: Tensor | None, z_BCTHW: Tensor) -> Tensor:
    """A channel (B, 1, T, H, W) that is 1 in conditioning frames and 0 elsewhere."""
    if is_known_BT is None:
        return torch.zeros_like(z_BCTHW[:, :1])
    known_B1T11 = is_known_BT[:, None, :, None, None].to(z_BCTHW.dtype)
    return known_B1T11.expand(-1, -1, -1, *z_BCTHW.shape[3:])
