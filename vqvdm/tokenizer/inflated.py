"""A tokenizer out of an image autoencoder: its nets see each frame, and layers in time lie between.

The nets are those of `AutoencoderKL` of the library `diffusers` (Rombach et al., 2022, section 3.1
and appendix G), with the names of its weights; each 2D convolution is a 3D one over a single frame.
A layer in time follows each level, as in Blattmann et al. (2023, "Align your Latents", sections 3.1
and 3.1.1). These begin as the identity, so that each frame is what the image autoencoder makes of
it. The latents of a group of frames are channels of one latent frame.

Shapes: B batch, C channels, T frames, H height, W width, N positions of a frame.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.grad import conv3d_weight

from vqvdm.errors import UserError
from vqvdm.layers import Chain, Conv3d, Size3, group_norm, zero
from vqvdm.ranges import Count, check_ranges
from vqvdm.tokenizer.base import Tokenizer, TokenizerConfig
from vqvdm.tokenizer.quantize import Continuous

EPS = 1e-6
"""Of the normalisations of the image autoencoder."""
GROUP = 4
"""Frames of a latent frame, by default: 16 frames of Stable Diffusion's autoencoder become 4 of 16
channels."""
TEMPORAL = ".temporal."
"""In the names of the weights of layers in time; all others are the image autoencoder's."""


@dataclass(frozen=True)
class InflatedConfig(TokenizerConfig):
    """Shape of a tokenizer out of an image autoencoder; the defaults are Stable Diffusion's."""

    widths: tuple[Count, ...] = (128, 256, 512, 512)
    """Channels at each level. Each but the last halves height and width."""
    depth: Count = 2
    """Residual blocks at each level of the encoder; the decoder has one more."""
    image_channels: Count = 4
    """Latent channels of a frame."""
    norm_groups: Count = 32
    """Groups of the normalisations."""
    attention: bool = True
    """Whether positions of a frame attend to each other, in the middle of both nets."""
    quant_conv: bool = True
    """Whether a convolution of one position follows the encoder."""
    post_quant_conv: bool = True
    """Whether a convolution of one position precedes the decoder."""
    group: Count = GROUP
    """Frames that become one latent frame, as further channels; 1 folds none."""

    @property
    def latent_channels(self) -> int:
        return self.group * self.image_channels

    @property
    def compression(self) -> Size3:
        """Pixels per latent position along (t, h, w)."""
        stride = 2 ** (len(self.widths) - 1)
        return self.group, stride, stride

    def __str__(self) -> str:
        frames, stride, _ = self.compression
        return (
            f"{self.latent_channels} latent channels at 1/{frames} of the frames and 1/{stride} of "
            "height and width"
        )

    def check(self) -> None:
        """`UserError` unless there are levels, of which the groups divide the channels."""
        check_ranges(self)
        if not self.widths:
            raise UserError("widths describe levels: give at least one")
        if odd := [width for width in self.widths if width % self.norm_groups]:
            raise UserError(f"{odd[0]} channels do not divide into {self.norm_groups} groups")


class FrameConv(Conv3d):
    """A 2D convolution of each frame, by default without change of size."""

    def __init__(
        self, channels_in: int, channels_out: int, side: int = 3, stride: int = 1, padding: int = 1
    ) -> None:
        kernel, strides, around = (1, side, side), (1, stride, stride), (0, padding, padding)
        super().__init__(channels_in, channels_out, kernel, strides, around)

    def weight_gradient(self, x_BCTHW: Tensor, gradient_BCTHW: Tensor) -> Tensor:
        """The gradient of the weight, (out, in and kernel), from an input and the gradient of its
        output. In float32, whatever the layer computes in."""
        found = conv3d_weight(
            x_BCTHW.float(), self.weight.shape, gradient_BCTHW.float(), self.stride, self.padding
        )
        return found.flatten(1)


def _point(channels_in: int, channels_out: int) -> FrameConv:
    return FrameConv(channels_in, channels_out, side=1, padding=0)


def _as_frames(x_BCTHW: Tensor) -> Tensor:
    return rearrange(x_BCTHW, "b c t h w -> (b t) c h w")


class FrameNorm(nn.GroupNorm):
    """Group normalisation of each frame by itself."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        normalised = super().forward(_as_frames(x_BCTHW))
        return rearrange(normalised, "(b t) c h w -> b c t h w", b=len(x_BCTHW))


class ResnetBlock(nn.Module):
    """Two normalised convolutions beside a skip connection."""

    def __init__(self, channels_in: int, channels_out: int, norm_groups: int) -> None:
        super().__init__()
        self.norm1 = FrameNorm(norm_groups, channels_in, EPS)
        self.conv1 = FrameConv(channels_in, channels_out)
        self.norm2 = FrameNorm(norm_groups, channels_out, EPS)
        self.conv2 = FrameConv(channels_out, channels_out)
        self.conv_shortcut = (
            nn.Identity() if channels_in == channels_out else _point(channels_in, channels_out)
        )

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x_BCTHW)))
        return self.conv_shortcut(x_BCTHW) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    """Attention of one head among the positions of each frame, beside a skip connection."""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(norm_groups, channels, EPS)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = Chain(nn.Linear(channels, channels))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        b, _, _, height, _ = x_BCTHW.shape
        x_NC = rearrange(self.group_norm(_as_frames(x_BCTHW)), "f c h w -> f 1 (h w) c")
        attended = F.scaled_dot_product_attention(self.to_q(x_NC), self.to_k(x_NC), self.to_v(x_NC))
        return x_BCTHW + rearrange(
            self.to_out(attended), "(b t) 1 (h w) c -> b c t h w", b=b, h=height
        )


class Temporal(nn.Module):
    """A normalised convolution over three frames at each position, beside a skip connection. It
    starts at zero, so that the layer starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.conv = zero(Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0)))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return x_BCTHW + self.conv(F.silu(self.norm(x_BCTHW)))


class Downsample(nn.Module):
    """Halve height and width. Zeros are added below and to the right only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = FrameConv(channels, channels, stride=2, padding=0)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.conv(F.pad(x_BCTHW, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = FrameConv(channels, channels)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.conv(F.interpolate(x_BCTHW, scale_factor=(1.0, 2.0, 2.0), mode="nearest"))


class MidBlock(nn.Module):
    """Two residual blocks; between them attention, if there is any, and a layer in time."""

    def __init__(self, channels: int, config: InflatedConfig) -> None:
        super().__init__()
        groups = config.norm_groups
        self.resnets = nn.ModuleList(ResnetBlock(channels, channels, groups) for _ in range(2))
        self.attentions = Chain(*[Attention(channels, groups)] if config.attention else [])
        self.temporal = Temporal(channels)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        first, last = self.resnets
        return last(self.temporal(self.attentions(first(x_BCTHW))))


class Mean(nn.Module):
    """The mean of a posterior, the first half of what the image autoencoder's encoder gives."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return x_BCTHW.chunk(2, dim=1)[0]


class FoldTime(nn.Module):
    """Make the channels of a group of frames those of one."""

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return rearrange(x_BCTHW, "b c (t g) h w -> b (g c) t h w", g=self.group)


class UnfoldTime(nn.Module):
    """Inverse of `FoldTime`."""

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return rearrange(x_BCTHW, "b (g c) t h w -> b c (t g) h w", g=self.group)


BLOCKS = (ResnetBlock, Attention, Temporal)
"""What activation checkpointing computes again."""


def _named(**layers: nn.Module | None) -> Chain:
    """A chain of those layers that there are, by name."""
    return Chain(OrderedDict({name: each for name, each in layers.items() if each is not None}))


def _level(
    channels_in: int,
    channels_out: int,
    depth: int,
    norm_groups: int,
    **resampling: nn.Module | None,
) -> Chain:
    """Residual blocks, a layer in time, and what changes the size, if anything does."""
    widths = [channels_in] + [channels_out] * depth
    resnets = (ResnetBlock(*each, norm_groups) for each in zip(widths, widths[1:], strict=False))
    samplers = {name: Chain(each) for name, each in resampling.items() if each is not None}
    return _named(resnets=Chain(*resnets), temporal=Temporal(channels_out), **samplers)


class Inflated(Tokenizer):
    """An image autoencoder's encoder and decoder with layers in time; latents are the mean of its
    posterior, and are not quantised.

    Pixels (B, 3, T, H, W) in [-1, 1] become raw latents (B, group·C, T/group, H/8, W/8), for C
    channels of a frame and four levels.
    """

    config: InflatedConfig

    def __init__(self, config: InflatedConfig) -> None:
        super().__init__()
        config.check()
        self.config = config
        self.encoder, self.quantizer = _encoder(config), Continuous()
        self.decoder = _decoder(config)

    def _pass(self, net: nn.Module, batch: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return net(batch)
        # One at a time, as activations of all frames at full size are large. Copies, because a CUDA
        # graph writes every result to the same place.
        return torch.cat([net(clip).clone() for clip in batch.split(1)])


def _encoder(config: InflatedConfig) -> Chain:
    widths, groups, latent = config.widths, config.norm_groups, 2 * config.image_channels
    last = len(widths) - 1
    levels = [
        _level(
            widths[max(0, level - 1)],
            width,
            config.depth,
            groups,
            downsamplers=Downsample(width) if level < last else None,
        )
        for level, width in enumerate(widths)
    ]
    return _named(
        conv_in=FrameConv(3, widths[0]),
        down_blocks=Chain(*levels),
        mid_block=MidBlock(widths[-1], config),
        conv_norm_out=FrameNorm(groups, widths[-1], EPS),
        conv_act=nn.SiLU(),
        conv_out=FrameConv(widths[-1], latent),
        quant_conv=_point(latent, latent) if config.quant_conv else None,
        mean=Mean(),
        fold=FoldTime(config.group),
    )


def _decoder(config: InflatedConfig) -> Chain:
    widths, groups, latent = config.widths[::-1], config.norm_groups, config.image_channels
    last = len(widths) - 1
    levels = [
        _level(
            widths[max(0, level - 1)],
            width,
            config.depth + 1,
            groups,
            upsamplers=Upsample(width) if level < last else None,
        )
        for level, width in enumerate(widths)
    ]
    return _named(
        unfold=UnfoldTime(config.group),
        post_quant_conv=_point(latent, latent) if config.post_quant_conv else None,
        conv_in=FrameConv(latent, widths[0]),
        mid_block=MidBlock(widths[0], config),
        up_blocks=Chain(*levels),
        conv_norm_out=FrameNorm(groups, widths[-1], EPS),
        conv_act=nn.SiLU(),
        conv_out=FrameConv(widths[-1], 3),
    )


def inflated_weights(image: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of `AutoencoderKL` by name as those of `Inflated`, in float32: kernels get an
    axis of one frame. Layers in time have none."""
    parts = {"quant_conv.": "encoder.quant_conv.", "post_quant_conv.": "decoder.post_quant_conv."}
    found = {}
    for name, tensor in image.items():
        part = next((part for part in parts if name.startswith(part)), "")
        kernel = tensor.unsqueeze(2) if tensor.ndim == 4 else tensor
        found[parts.get(part, "") + name.removeprefix(part)] = kernel.float()
    return found
