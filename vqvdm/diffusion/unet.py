"""The denoiser: a U-Net of 3D residual blocks with spatial and temporal attention.

Every residual block is conditioned on the class, the frame rate and the time. The net works on
*normalised latents*.

Shapes: B batch, C channels, T frames, H height, W width, E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vqvdm.errors import UserError
from vqvdm.layers import Conv3d, conv3d, group_norm, sinusoidal_encoding, zero, zero_last

MIN_NORM = 1e-3
"""Queries and keys are divided by their norm, but at least by this, to bound their gradients."""
SHORT = 8
"""Positions of a sequence for which compiled sums are faster than fused attention, whose kernels
compute 64 by 128 at least: on an H200 these took a third of a training step for sequences of 4."""
SEQUENCES_AT_ONCE = 65_535
"""CUDA's fused attention kernels take no more, as their grids have no more rows; attention among
the frames at each of 16x16 positions has 65,536 of 256 clips."""


@dataclass(frozen=True)
class UNetConfig:
    """Shape of the denoiser."""

    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2)
    """Channels at each level, as multiples of the width; each level halves height and width."""
    depths: tuple[int, ...] = (2, 2, 2)
    """Blocks at each level, on the way down and on the way up."""
    head_width: int = 32
    """Channels of an attention head."""
    factorised: bool = False
    """Split 3x3x3 convolutions into 1x3x3 and 3x1x1."""
    spatial_attention_from: int = 0
    """First level with spatial attention; frames at full resolution have too many positions."""

    def check(self, height: int | None = None, width: int | None = None) -> None:
        """`UserError` unless the heads divide the widths and a latent of this size can be halved
        at every level."""
        if len(self.multipliers) != len(self.depths):
            raise UserError("multipliers and depths describe levels: give as many of each")
        if self.width % 2:
            raise UserError(f"the U-Net's width {self.width} is odd: choose an even one")
        if self.head_width < 1:
            raise UserError(f"head_width is {self.head_width}: at least 1 is needed")
        for channels in (self.width * multiplier for multiplier in self.multipliers):
            if channels % max(1, channels // self.head_width):
                raise UserError(
                    f"heads of {self.head_width} do not divide {channels} channels: choose a "
                    "head_width that divides every width"
                )
        halvings = 2 ** (len(self.multipliers) - 1)
        for size in (height, width):
            if size is not None and size % halvings:
                raise UserError(
                    f"a latent of {height}x{width} cannot be halved {len(self.multipliers) - 1} "
                    "times: choose fewer multipliers, or cut clips of another --size"
                )


class Conditioning(nn.Module):
    """Encodes class, frame rate and time as one vector (B, E).

    Class index `num_classes` stands for "no class". Classifier-free guidance and unlabelled data
    use it. With `intervals`, the length of an interval of time that ends at `time` is encoded too;
    at first it says nothing.
    """

    def __init__(self, num_classes: int, width: int, intervals: bool = False) -> None:
        super().__init__()
        embedding = 4 * width
        self.width = width
        self.class_embedding = nn.Embedding(num_classes + 1, embedding)
        self.time = nn.Sequential(
            nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.fps = nn.Sequential(
            nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        if intervals:
            self.interval = nn.Sequential(
                nn.Linear(width, embedding), nn.SiLU(), zero(nn.Linear(embedding, embedding))
            )

    def forward(
        self, time_B: Tensor, class_B: Tensor, fps_B: Tensor, interval_B: Tensor | None = None
    ) -> Tensor:
        classes = self.class_embedding(class_B)
        time = self.time(sinusoidal_encoding(1000 * time_B, self.width).to(classes.dtype))
        # The logarithm, because frame rates matter by their ratio.
        fps = self.fps(sinusoidal_encoding(100 * fps_B.log2(), self.width).to(classes.dtype))
        condition = time + fps + classes
        if interval_B is not None:
            encoded = sinusoidal_encoding(1000 * interval_B, self.width).to(classes.dtype)
            condition = condition + self.interval(encoded)
        return F.silu(condition)


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


def attend(q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor) -> Tensor:
    """Softmax attention. Fused kernels are faster on GPUs only: the sequences here are short."""
    if q_BHLD.device.type != "cpu":
        if q_BHLD.shape[-2] <= SHORT and torch.compiler.is_compiling():
            return attend_short(q_BHLD, k_BHLD, v_BHLD)
        return attend_fused(q_BHLD, k_BHLD, v_BHLD)
    scores = (q_BHLD * q_BHLD.shape[-1] ** -0.5) @ k_BHLD.transpose(-2, -1)
    return scores.softmax(dim=-1) @ v_BHLD


def attend_short(q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor) -> Tensor:
    """Softmax attention without products of matrices, for sequences of few positions: sums that a
    compiler fuses with what is around them. Sums are in float32."""
    scale = q_BHLD.shape[-1] ** -0.5
    scores = (q_BHLD.unsqueeze(-2) * k_BHLD.unsqueeze(-3)).sum(-1, dtype=torch.float32)
    weights = (scale * scores).softmax(dim=-1)
    y = (weights.unsqueeze(-1) * v_BHLD.unsqueeze(-3)).sum(-2)
    return y.to(q_BHLD.dtype)


def attend_fused(q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor) -> Tensor:
    """Softmax attention by fused kernels, over at most `SEQUENCES_AT_ONCE` sequences each."""
    parts = zip(*(x.split(SEQUENCES_AT_ONCE) for x in (q_BHLD, k_BHLD, v_BHLD)), strict=True)
    done = [F.scaled_dot_product_attention(q, k, v) for q, k, v in parts]
    return done[0] if len(done) == 1 else torch.cat(done)


class Attention(nn.Module):
    """Self-attention with normalised queries and keys, over sequences (batch, length, channels)."""

    def __init__(self, channels: int, head_width: int) -> None:
        super().__init__()
        self.heads = max(1, channels // head_width)
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.norm_q = nn.RMSNorm(channels // self.heads)
        self.norm_k = nn.RMSNorm(channels // self.heads)
        self.out = zero(nn.Linear(channels, channels))

    def forward(self, x_BLC: Tensor) -> Tensor:
        qk_2BHLD, v_1BHLD = rearrange(
            self.qkv(self.norm(x_BLC)), "b l (n h d) -> n b h l d", n=3, h=self.heads
        ).split((2, 1))
        # Normalised queries and keys keep the logits bounded under bf16 (Henry et al., 2020).
        # Only their product matters, so one multiplication applies the weights of both norms.
        # F.normalize is faster than RMSNorm. It gives length 1 where RMSNorm gives the square
        # root of the width, hence the factor of the width in the product.
        q, k = F.normalize(qk_2BHLD, dim=-1, eps=MIN_NORM)
        q = q * (q.shape[-1] * self.norm_q.weight * self.norm_k.weight).to(q.dtype)
        y = attend(q, k, v_1BHLD[0])
        return self.out(rearrange(y, "b h l d -> b l (h d)"))


class SpatialAttention(Attention):
    """Attention among the positions of each frame."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        b, _, t, h, w = x_BCTHW.shape
        y = super().forward(rearrange(x_BCTHW, "b c t h w -> (b t) (h w) c"))
        return x_BCTHW + rearrange(y, "(b t) (h w) c -> b c t h w", b=b, t=t, h=h, w=w)


class TemporalAttention(Attention):
    """Attention among the frames at each position, with an encoding of the frame number."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        b, c, t, h, w = x_BCTHW.shape
        positions = sinusoidal_encoding(torch.arange(t, device=x_BCTHW.device), c)
        sequence = rearrange(x_BCTHW, "b c t h w -> (b h w) t c") + positions.to(x_BCTHW.dtype)
        y = super().forward(sequence)
        return x_BCTHW + rearrange(y, "(b h w) t c -> b c t h w", b=b, h=h, w=w)


class Block(nn.Module):
    """3D residual block, spatial attention, temporal attention; of a skip connection too."""

    def __init__(
        self, channels_in: int, channels_out: int, level: int, embedding: int, config: UNetConfig
    ) -> None:
        super().__init__()
        self.residual = ResidualBlock(channels_in, channels_out, embedding, config.factorised)
        self.spatial = (
            SpatialAttention(channels_out, config.head_width)
            if level >= config.spatial_attention_from
            else nn.Identity()
        )
        self.temporal = TemporalAttention(channels_out, config.head_width)

    def forward(
        self, x_BCTHW: Tensor, condition_BE: Tensor, skip_BCTHW: Tensor | None = None
    ) -> Tensor:
        # Joined in here, the pair is not kept where activations are computed again.
        x = x_BCTHW if skip_BCTHW is None else torch.cat([x_BCTHW, skip_BCTHW], dim=1)
        return self.temporal(self.spatial(self.residual(x, condition_BE)))


def _as_channel(is_known_BT: Tensor | None, z_BCTHW: Tensor) -> Tensor:
    """A channel (B, 1, T, H, W) that is 1 in known frames."""
    if is_known_BT is None:
        return torch.zeros_like(z_BCTHW[:, :1])
    known_B1T11 = is_known_BT[:, None, :, None, None].to(z_BCTHW.dtype)
    return known_B1T11.expand(-1, -1, -1, *z_BCTHW.shape[3:])


class UNet(nn.Module):
    """Predicts the target of its objective from noised normalised latents; with `intervals`, for
    an interval of time; with `known_frames`, also where some frames are clean and marked so."""

    def __init__(
        self,
        config: UNetConfig,
        latent_channels: int,
        num_classes: int,
        intervals: bool = False,
        known_frames: bool = False,
    ) -> None:
        super().__init__()
        config.check()
        self.config, self.num_classes, self.known_frames = config, num_classes, known_frames
        embedding = 4 * config.width
        widths = [config.width * m for m in config.multipliers]
        self.conditioning = Conditioning(num_classes, config.width, intervals)
        self.first = conv3d(latent_channels + known_frames, widths[0])

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
            group_norm(channels), nn.SiLU(), zero(conv3d(channels, latent_channels))
        )

    def forward(
        self,
        z_BCTHW: Tensor,
        time_B: Tensor,
        class_B: Tensor,
        fps_B: Tensor,
        interval_B: Tensor | None = None,
        is_known_BT: Tensor | None = None,
    ) -> Tensor:
        """Noised normalised latents, time in [0, 1], class index, frames/s, for a net with
        `intervals` how much time lies between `time` and the interval's other end, and for one with
        `known_frames` which frames are clean, by default none; returns like `z`."""
        condition = self.conditioning(time_B, class_B, fps_B, interval_B)
        z = z_BCTHW.to(condition.dtype)
        if self.known_frames:
            z = torch.cat([z, _as_channel(is_known_BT, z)], dim=1)
        h = self.first(z)
        skips = []
        for layer in self.down:
            if isinstance(layer, Block):
                h = layer(h, condition)
                skips.append(h)
            else:
                h = layer(h)
        h = self.middle(h, condition)
        for layer in self.up:
            h = layer(h, condition, skips.pop()) if isinstance(layer, Block) else layer(h)
        return self.last(h)
