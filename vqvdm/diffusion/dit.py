"""The other denoiser: a transformer on patches of latents, with adaptive norms (DiT).

After Peebles & Xie, 2023, arXiv:2212.09748: the class, the frame rate and the time scale and shift
each normalisation and weigh each branch; all weights of branches are zero at first (adaLN-Zero).
Positions are encoded by rotation, in seconds, height and width, so that other lengths, sizes and
frame rates need no other weights.

Shapes: B batch, C channels, T frames, H height, W width, E embedding, L patches of a clip, D width
of a caption's embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from vqvdm.diffusion.attention import (
    LEAST_HEAD,
    Attention,
    angles_in_both,
    angles_in_plane,
    angles_in_time,
    frame_times,
)
from vqvdm.diffusion.conditioning import Conditioning, NetInputs, mask_channel
from vqvdm.errors import UserError
from vqvdm.layers import Conv3d, zero
from vqvdm.ranges import Count, check_ranges

Sees = Literal["clip", "frame", "position"]
"""Among which patches a block attends: all of a clip, those of a frame, those of all frames at a
position."""
SEQUENCES: dict[Sees, str] = {
    "clip": "b (t p) c",
    "frame": "(b t) p c",
    "position": "(b p) t c",
}
"""The patches of T frames, P in each, as the sequences of such a block."""


@dataclass(frozen=True)
class DiTConfig:
    """Shape of the transformer."""

    width: Count = 384
    """Channels of a patch, a multiple of 8."""
    depth: Count = 12
    """Blocks."""
    head_width: Count = 64
    """Channels of an attention head: even, at least 6."""
    patch: Count = 1
    """Height and width of a patch, in positions of the latent."""
    attention: Literal["joint", "factorised"] = "joint"
    """joint: among all patches of a clip. factorised: blocks attend in turns among the patches of a
    frame and among all frames at a position, which is less arithmetic for long or large clips."""
    mlp_ratio: Count = 4
    """Channels within a block's two linear layers, as a multiple of the width."""

    tells_seconds: ClassVar[bool] = True
    """Frames have positions in seconds, so clips may have any length."""

    @property
    def multiple(self) -> int:
        """What height and width of a latent divide by."""
        return self.patch

    def check(self, height: int | None = None, width: int | None = None) -> None:
        """`UserError` unless heads divide the width and patches a latent of this size."""
        check_ranges(self)
        if self.width % 8:
            raise UserError(f"the transformer's width {self.width} is no multiple of 8")
        least = LEAST_HEAD
        if self.head_width < least or self.head_width % 2 or self.width % self.head_width:
            raise UserError(
                f"heads of {self.head_width} in {self.width} channels: choose an even head_width "
                f"of at least {least} that divides the width"
            )
        for size in (height, width):
            if size is not None and size % self.multiple:
                raise UserError(
                    f"a latent of {height}x{width} has no whole patches of {self.patch}: choose "
                    "another patch, or cut clips of another --size"
                )


def modulate(x_BLC: Tensor, shift_BC: Tensor, scale_BC: Tensor) -> Tensor:
    """Scale and shift the channels of all patches of a clip."""
    return torch.addcmul(shift_BC[:, None], x_BLC, 1 + scale_BC[:, None])


class Block(nn.Module):
    """Attention and two linear layers; the condition modulates and weighs each."""

    def __init__(self, config: DiTConfig, sees: Sees) -> None:
        super().__init__()
        width = config.width
        self.sees = sees
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, config.head_width, plain=True)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.mlp_ratio * width),
            nn.GELU("tanh"),
            nn.Linear(config.mlp_ratio * width, width),
        )
        self.condition = zero(nn.Linear(width, 6 * width))

    def forward(
        self, x_BTPC: Tensor, condition_BE: Tensor, angles: Mapping[Sees, Tensor]
    ) -> Tensor:
        """Patches (B, T, P, C) of T frames, and the angles of each kind of sequence."""
        parts = self.condition(condition_BE).chunk(6, dim=-1)
        shift1, scale1, weight1, shift2, scale2, weight2 = parts
        b, t, _, _ = x_BTPC.shape
        x = rearrange(x_BTPC, "b t p c -> b (t p) c")
        h = modulate(self.norm1(x), shift1, scale1)
        sequences = SEQUENCES[self.sees]
        h = rearrange(h, f"b (t p) c -> {sequences}", t=t)
        h = self.attention(h, angles[self.sees])
        h = rearrange(h, f"{sequences} -> b (t p) c", b=b, t=t)
        x = torch.addcmul(x, weight1[:, None], h)
        h = self.mlp(modulate(self.norm2(x), shift2, scale2))
        x = torch.addcmul(x, weight2[:, None], h)
        return rearrange(x, "b (t p) c -> b t p c", t=t)


class Last(nn.Module):
    """From patches to what is predicted; zero at first."""

    def __init__(self, config: DiTConfig, latent_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width, elementwise_affine=False)
        self.condition = zero(nn.Linear(config.width, 2 * config.width))
        self.linear = zero(nn.Linear(config.width, latent_channels * config.patch**2))

    def forward(self, x_BLC: Tensor, condition_BE: Tensor) -> Tensor:
        shift, scale = self.condition(condition_BE).chunk(2, dim=-1)
        return self.linear(modulate(self.norm(x_BLC), shift, scale))


class DiT(nn.Module):
    """Predicts the target of its objective from noised normalised latents, with the arguments and
    results of `UNet`."""

    def __init__(self, config: DiTConfig, inputs: NetInputs) -> None:
        super().__init__()
        config.check()
        self.config, self.inputs = config, inputs
        self.conditioning = Conditioning(inputs, config.width // 4)
        patch = (1, config.patch, config.patch)
        channels = inputs.latent_channels + inputs.known_frames
        self.first = Conv3d(channels, config.width, patch, patch)
        turns: tuple[Sees, ...] = ("clip",)
        if config.attention == "factorised":
            turns = ("frame", "position")
        self.blocks = nn.ModuleList(
            Block(config, turns[index % len(turns)]) for index in range(config.depth)
        )
        self.last = Last(config, inputs.latent_channels)

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
        """As `UNet.forward`."""
        condition = self.conditioning(time_B, class_B, fps_B, interval_B, text_BD)
        z = z_BCTHW.to(condition.dtype)
        if self.inputs.known_frames:
            z = torch.cat([z, mask_channel(is_known_BT, z)], dim=1)
        x = self.first(z)
        _, _, t, h, w = x.shape
        angles = self._angles(frame_times(t, fps_B), h, w)
        x = rearrange(x, "b c t h w -> b t (h w) c")
        for block in self.blocks:
            x = block(x, condition, angles)
        y = self.last(x.flatten(1, 2), condition)
        p = self.config.patch
        return rearrange(y, "b (t h w) (c p q) -> b c t (h p) (w q)", t=t, h=h, w=w, p=p, q=p)

    def _angles(self, times_BT: Tensor, height: int, width: int) -> dict[Sees, Tensor]:
        """The angles of each kind of sequence that blocks attend in, (sequences or 1, L, P)."""
        pairs = self.config.head_width // 2
        if self.config.attention == "joint":
            return {"clip": angles_in_both(times_BT, height, width, pairs).flatten(1, 3)}
        in_frame = angles_in_plane(height, width, pairs, times_BT.device).flatten(1, 2)
        in_time = angles_in_time(times_BT, pairs).repeat_interleave(height * width, dim=0)
        return {"frame": in_frame, "position": in_time}
