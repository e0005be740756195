"""The discriminators of the VQGAN: one for patches of videos, one for patches of single frames.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vqvdm.errors import UserError
from vqvdm.layers import Conv3d, group_norm
from vqvdm.ranges import Count, check_ranges


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Shape of the discriminators."""

    width: Count = 32
    """Channels of the first level; each further one has twice as many."""
    levels: Count = 3
    stride: Count = 4
    """Pixels by which the first level shrinks space, 2 or 4; the others shrink by 2. With 4 it is
    fast; published ones have 2."""
    image: bool = True
    """Also judge single frames, one of each clip drawn at random."""

    def check(self) -> None:
        """`UserError` unless the first level can shrink so."""
        check_ranges(self)
        if self.stride not in (2, 4):
            raise UserError(f"--discriminator.stride {self.stride}: give 2 or 4")


class Judgement(NamedTuple):
    """Logits of every discriminator, positive for real, and the features of each level."""

    logits: list[Tensor]
    features: list[Tensor]

    def halves(self) -> tuple[Judgement, Judgement]:
        """Split the judgement of a batch into those of its first and its second half."""
        logits = [part.chunk(2) for part in self.logits]
        features = [part.chunk(2) for part in self.features]
        first, second = (
            Judgement([part[n] for part in logits], [part[n] for part in features]) for n in (0, 1)
        )
        return first, second


def one_frame(x_BCTHW: Tensor, frame_B: Tensor) -> Tensor:
    """The frame with the given index of each clip, (B, C, H, W)."""
    return x_BCTHW[torch.arange(len(frame_B), device=x_BCTHW.device), :, frame_B]


class PatchDiscriminator(nn.Module):
    """A PatchGAN (Isola et al., 2017, section 3.2.2): one logit for each patch of a video."""

    def __init__(self, width: int, levels: int, temporal: bool, first_stride: int = 4) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        channels = 3
        for level in range(levels):
            out = width * 2**level
            # The first level shrinks space only, to see motion at the full frame rate.
            stride = 2 if level else first_stride
            kernel, padding = stride + 2, 1
            kernel_t, stride_t, padding_t = (4, 2, 1) if level else (3, 1, 1)
            if not temporal:
                kernel_t, stride_t, padding_t = 1, 1, 0
            conv = Conv3d(
                channels,
                out,
                (kernel_t, kernel, kernel),
                (stride_t, stride, stride),
                (padding_t, padding, padding),
            )
            norm = group_norm(out) if level else nn.Identity()
            self.levels.append(nn.Sequential(conv, norm, nn.LeakyReLU(0.2)))
            channels = out
        last, around = ((3, 3, 3), (1, 1, 1)) if temporal else ((1, 3, 3), (0, 1, 1))
        self.last = Conv3d(channels, 1, last, padding=around)

    def forward(self, x_BCTHW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, 1, T', H', W'), and the features of each level."""
        features = []
        for level in self.levels:
            x_BCTHW = level(x_BCTHW)
            features.append(x_BCTHW)
        return self.last(x_BCTHW), features


class Discriminators(nn.Module):
    """The video discriminator and, if configured, the image discriminator."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        shape = (config.width, config.levels)
        self.video = PatchDiscriminator(*shape, temporal=True, first_stride=config.stride)
        self.image = (
            PatchDiscriminator(*shape, temporal=False, first_stride=config.stride)
            if config.image
            else None
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the discriminators, in the order of their logits."""
        return ("video",) if self.image is None else ("video", "image")

    def forward(self, x_BCTHW: Tensor, frame_B: Tensor) -> Judgement:
        """Judge pixels in [-1, 1]; `frame_B` is the frame that the image discriminator sees."""
        logits, features = self.video(x_BCTHW)
        if self.image is None:
            return Judgement([logits], features)
        frame_logits, frame_features = self.image(one_frame(x_BCTHW, frame_B).unsqueeze(2))
        return Judgement([logits, frame_logits], features + frame_features)


def refuse_small(config: DiscriminatorConfig, frames: int, height: int, width: int) -> None:
    """`UserError` if the discriminators shrink clips of this size to nothing."""
    if _takes(config, frames, height, width):
        return
    fewer = (n for n in range(config.levels - 1, 0, -1))
    fitting = next(
        (n for n in fewer if _takes(replace(config, levels=n), frames, height, width)), None
    )
    pass_fewer = f"pass --discriminator.levels {fitting}, or " if fitting else ""
    raise UserError(
        f"clips of {frames} frames of {height}x{width} are too small for discriminators of "
        f"{config.levels} levels: {pass_fewer}cut clips of more --frames or a larger --size, or "
        "train without discriminators by --loss.adversarial 0"
    )


def _takes(config: DiscriminatorConfig, frames: int, height: int, width: int) -> bool:
    """Whether the discriminators take a clip: they are tried on one without numbers."""
    with torch.device("meta"):
        nets, clip_BCTHW = Discriminators(config), torch.empty(1, 3, frames, height, width)
        try:
            nets(clip_BCTHW, torch.zeros(1, dtype=torch.int64))
        except RuntimeError:
            return False
    return True
