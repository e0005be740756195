"""The denoiser: a U-Net of 3D residual blocks with spatial and temporal attention.

Every residual block is conditioned on the class, the caption, the frame rate and the time. The net
works on *normalised latents*.

Shapes: B batch, C channels, T frames, H height, W width, E embedding, D width of a caption's
embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqvdm.diffusion.attention import (
    LEAST_HEAD,
    JointAttention,
    SpatialAttention,
    TemporalAttention,
    frame_times,
)
from vqvdm.diffusion.conditioning import Conditioning, NetInputs, mask_channel
from vqvdm.errors import UserError
from vqvdm.layers import Conv3d, conv3d, group_norm, zero, zero_last
from vqvdm.ranges import Count, CountFrom0, check_ranges

TemporalPositions = Literal["frames", "seconds"]
LATER = {"temporal_positions": "frames", "joint_attention_from": None}
"""Fields that came later, and what they stand for where a bundle has none."""


@dataclass(frozen=True)
class UNetConfig:
    """Shape of the denoiser."""

    width: Count = 64
    multipliers: tuple[Count, ...] = (1, 2, 2)
    """Channels at each level, as multiples of the width; each level halves height and width."""
    depths: tuple[CountFrom0, ...] = (2, 2, 2)
    """Blocks at each level, on the way down and on the way up."""
    head_width: Count = 32
    """Channels of an attention head."""
    factorised: bool = False
    """Split 3x3x3 convolutions into 1x3x3 and 3x1x1."""
    spatial_attention_from: CountFrom0 = 0
    """First level with spatial attention; frames at full resolution have too many positions."""
    temporal_positions: TemporalPositions = "frames"
    """Positions of frames in temporal attention: absolute ones by their numbers, or, by rotation,
    relative ones in seconds."""
    joint_attention_from: CountFrom0 | None = None
    """First level with one attention among all positions of all frames in place of a spatial and a
    temporal one, with relative positions in seconds, height and width. None has no such level."""

    @property
    def _rotates(self) -> bool:
        """Whether pairs of a head's channels encode positions."""
        return self.temporal_positions == "seconds" or self.joint_attention_from is not None

    @property
    def multiple(self) -> int:
        """What height and width of a latent divide by."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def tells_seconds(self) -> bool:
        """Whether no block uses absolute frame positions, so that clips may have any length."""
        return self.temporal_positions == "seconds" or self.joint_attention_from == 0

    def check(self, height: int | None = None, width: int | None = None) -> None:
        """`UserError` unless the heads divide the widths and a latent of this size can be halved
        at every level."""
        check_ranges(self)
        if not self.depths or len(self.multipliers) != len(self.depths):
            raise UserError(
                "multipliers and depths describe levels: give as many of each, at least one"
            )
        joint_from, levels = self.joint_attention_from, len(self.depths)
        if joint_from is not None and joint_from >= levels:
            raise UserError(
                f"joint_attention_from is {joint_from}: the U-Net has the levels 0 to {levels - 1}"
            )
        if self.width % 2:
            raise UserError(f"the U-Net's width {self.width} is odd: choose an even one")
        for channels in (self.width * multiplier for multiplier in self.multipliers):
            if channels % max(1, channels // self.head_width):
                raise UserError(
                    f"heads of {self.head_width} do not divide {channels} channels: choose a "
                    "head_width that divides every width"
                )
            head = channels // max(1, channels // self.head_width)
            if self._rotates and (head % 2 or head < LEAST_HEAD):
                raise UserError(
                    f"heads of {self.head_width} in {channels} channels are {head} wide: to tell "
                    f"seconds and distances, choose a head_width that is even, and {LEAST_HEAD} "
                    "or more"
                )
        for size in (height, width):
            if size is not None and size % self.multiple:
                raise UserError(
                    f"a latent of {height}x{width} cannot be halved {len(self.multipliers) - 1} "
                    "times: choose fewer multipliers, or cut clips of another --size"
                )


class ResidualBlock(nn.Module):
    """A 3D residual block; the condition scales and shifts its second normalisation."""

    def __init__(
        self, channels_in: int, channels_out: int, embedding: int, factorised: bool
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(channels_in), group_norm(channels_out)
        self.conv1 = conv3d(channels_in, channels_out, factorised)
        self.conv2 = zero_last(conv3d(channels_out, channels_out, factorised))
        self.condition = nn.Linear(embedding, 2 * channels_out)
        self.skip = (
            Conv3d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()
        )

    def forward(self, x_BCTHW: Tensor, condition_BE: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x_BCTHW)))
        scale, shift = self.condition(condition_BE)[:, :, None, None, None].chunk(2, dim=1)
        h = self.conv2(F.silu(torch.addcmul(shift, self.norm2(h), 1 + scale)))
        return self.skip(x_BCTHW) + h


class Block(nn.Module):
    """3D residual block, spatial attention, temporal attention or one of both; of a skip connection
    too."""

    def __init__(
        self, channels_in: int, channels_out: int, level: int, embedding: int, config: UNetConfig
    ) -> None:
        super().__init__()
        self.residual = ResidualBlock(channels_in, channels_out, embedding, config.factorised)
        joint_from = config.joint_attention_from
        self.is_joint = joint_from is not None and level >= joint_from
        self.in_seconds = config.temporal_positions == "seconds"
        if self.is_joint:
            self.joint = JointAttention(channels_out, config.head_width)
        else:
            self.spatial = (
                SpatialAttention(channels_out, config.head_width)
                if level >= config.spatial_attention_from
                else nn.Identity()
            )
            self.temporal = TemporalAttention(channels_out, config.head_width)

    def forward(
        self,
        x_BCTHW: Tensor,
        condition_BE: Tensor,
        times_BT: Tensor,
        skip_BCTHW: Tensor | None = None,
    ) -> Tensor:
        # Joined in here, the pair is not kept where activations are computed again.
        x = x_BCTHW if skip_BCTHW is None else torch.cat([x_BCTHW, skip_BCTHW], dim=1)
        x = self.residual(x, condition_BE)
        if self.is_joint:
            return self.joint(x, times_BT)
        return self.temporal(self.spatial(x), times_BT if self.in_seconds else None)


class UNet(nn.Module):
    """Predicts the target of its objective from noised normalised latents."""

    def __init__(self, config: UNetConfig, inputs: NetInputs) -> None:
        super().__init__()
        config.check()
        self.config, self.inputs = config, inputs
        embedding = 4 * config.width
        widths = [config.width * m for m in config.multipliers]
        self.conditioning = Conditioning(inputs, config.width)
        self.first = conv3d(inputs.latent_channels + inputs.known_frames, widths[0])

        def block(channels_in: int, channels_out: int, level: int) -> Block:
            return Block(channels_in, channels_out, level, embedding, config)

        skips, channels = [], widths[0]
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            if level:
                self.down.append(Conv3d(channels, channels, (1, 3, 3), (1, 2, 2), (0, 1, 1)))
            for _ in range(config.depths[level]):
                self.down.append(block(channels, width, level))
                channels = width
                skips.append(channels)

        self.middle = block(channels, channels, len(widths) - 1)

        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.depths[level]):
                self.up.append(block(channels + skips.pop(), width, level))
                channels = width
            if level:
                self.up.append(
                    nn.Sequential(
                        nn.Upsample(scale_factor=(1, 2, 2), mode="nearest"),
                        Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1)),
                    )
                )
        self.last = nn.Sequential(
            group_norm(channels), nn.SiLU(), zero(conv3d(channels, inputs.latent_channels))
        )

    def forward(
        self,
        z_BCTHW: Tensor,
        time_B: Tensor,
        class_B: Tensor,
        fps_B: Tensor,
        interval_B: Tensor | None = None,
        is_known_BT: Tensor | None = None,
        text_BD: Tensor | None = None,
    ) -> Tensor:
        """Noised normalised latents, time in [0, 1], class index and frames/s. A net with
        `intervals` also takes the length of the interval from `time` down, one with `known_frames`
        which frames are conditioning frames (by default none), and one with `text_width`
        embeddings of captions (zeros, the default, for none). Returns a tensor like `z`."""
        condition = self.conditioning(time_B, class_B, fps_B, interval_B, text_BD)
        z = z_BCTHW.to(condition.dtype)
        if self.inputs.known_frames:
            z = torch.cat([z, mask_channel(is_known_BT, z)], dim=1)
        times_BT = frame_times(z.shape[2], fps_B)
        h = self.first(z)
        skips = []
        for layer in self.down:
            if isinstance(layer, Block):
                h = layer(h, condition, times_BT)
                skips.append(h)
            else:
                h = layer(h)
        h = self.middle(h, condition, times_BT)
        for layer in self.up:
            is_block = isinstance(layer, Block)
            h = layer(h, condition, times_BT, skips.pop()) if is_block else layer(h)
        return self.last(h)
