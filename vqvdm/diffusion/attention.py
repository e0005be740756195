"""Self-attention among the positions of a latent, with normalised queries and keys.

Rotary position encoding (Su et al., 2021, arXiv:2104.09864), where it is used, gives a query and a
key their distance: in seconds, and in positions of height and width.

Shapes: B batch, C channels, T frames, H height, W width, A heads, L length of a sequence, D width
of a head, P pairs of a head's channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vqvdm.layers import sinusoidal_encoding, zero

MIN_NORM = 1e-3
"""Queries and keys are divided by their norm, but at least by this, to bound their gradients."""
SHORT = 8
"""Positions of a sequence for which compiled sums are faster than fused attention, whose kernels
compute 64 by 128 at least: on an H200 these took a third of a training step for sequences of 4."""
LONG = 4096
"""Positions of a sequence from which on fused attention is used on CPUs too: in fp32, the scores of
one head of this length take 64 MiB."""
SEQUENCES_AT_ONCE = 65_535
"""CUDA's fused attention kernels take no more, as their grids have no more rows; attention among
the frames at each of 16x16 positions has 65,536 of 256 clips."""
FASTEST_TIME, SLOWEST_TIME = 32.0, 0.5
"""Turns of a pair of channels in radians, from one latent frame to the next at one frame a second:
neighbours at 8 fps are 4 rad apart in the fastest pair and 0.06 in the slowest."""
FASTEST_SPACE, SLOWEST_SPACE = 1.0, 0.02
"""Turns in radians from a position to the next in height or width."""

LEAST_HEAD = 6
"""Channels of a head that encode time, height and width by rotation: a pair for each."""


def attend(q_BALD: Tensor, k_BALD: Tensor, v_BALD: Tensor) -> Tensor:
    """Softmax attention. On CPUs fused kernels are slower, and used where the scores of all pairs
    of positions would not fit into memory."""
    if q_BALD.device.type != "cpu" or q_BALD.shape[-2] > LONG:
        if q_BALD.shape[-2] <= SHORT and torch.compiler.is_compiling():
            return attend_short(q_BALD, k_BALD, v_BALD)
        return attend_fused(q_BALD, k_BALD, v_BALD)
    scores = (q_BALD * q_BALD.shape[-1] ** -0.5) @ k_BALD.transpose(-2, -1)
    return scores.softmax(dim=-1) @ v_BALD


def attend_short(q_BALD: Tensor, k_BALD: Tensor, v_BALD: Tensor) -> Tensor:
    """Softmax attention without products of matrices, for sequences of few positions: sums that a
    compiler fuses with what is around them. Sums are in float32."""
    scale = q_BALD.shape[-1] ** -0.5
    scores = (q_BALD.unsqueeze(-2) * k_BALD.unsqueeze(-3)).sum(-1, dtype=torch.float32)
    weights = (scale * scores).softmax(dim=-1)
    y = (weights.unsqueeze(-1) * v_BALD.unsqueeze(-3)).sum(-2)
    return y.to(q_BALD.dtype)


def attend_fused(q_BALD: Tensor, k_BALD: Tensor, v_BALD: Tensor) -> Tensor:
    """Softmax attention by fused kernels, over at most `SEQUENCES_AT_ONCE` sequences each."""
    parts = zip(*(x.split(SEQUENCES_AT_ONCE) for x in (q_BALD, k_BALD, v_BALD)), strict=True)
    done = [F.scaled_dot_product_attention(q, k, v) for q, k, v in parts]
    return done[0] if len(done) == 1 else torch.cat(done)


def frame_times(frames: int, fps_B: Tensor) -> Tensor:
    """Times (B, T) of latent frames, in float32: their number over the frame rate, which are
    seconds over the frames that a latent frame stands for."""
    return torch.arange(frames, device=fps_B.device) / fps_B.float()[:, None]


def _turns(pairs: int, fastest: float, slowest: float, device: torch.device) -> Tensor:
    """Turns (P) of pairs of channels for a distance of one, at geometric steps."""
    steps = torch.arange(pairs, device=device, dtype=torch.float32) / max(1, pairs - 1)
    return fastest * torch.exp(steps * math.log(slowest / fastest))


def angles_in_time(times_BT: Tensor, pairs: int) -> Tensor:
    """Angles (B, T, P) of the pairs of a head's channels at each time."""
    return times_BT[..., None] * _turns(pairs, FASTEST_TIME, SLOWEST_TIME, times_BT.device)


def angles_in_space(size: int, pairs: int, device: torch.device) -> Tensor:
    """Angles (H, P) along the height, or the width."""
    place = torch.arange(size, device=device, dtype=torch.float32)
    return place[:, None] * _turns(pairs, FASTEST_SPACE, SLOWEST_SPACE, device)


def angles_in_plane(height: int, width: int, pairs: int, device: torch.device) -> Tensor:
    """Angles (1, H, W, P) in a frame: half of the pairs encode the height, the others the width."""
    h = angles_in_space(height, pairs // 2, device)[:, None]
    w = angles_in_space(width, pairs - pairs // 2, device)[None]
    return torch.cat([each.expand(height, width, -1) for each in (h, w)], dim=-1)[None]


def angles_in_both(times_BT: Tensor, height: int, width: int, pairs: int) -> Tensor:
    """Angles (B, T, H, W, P): a third of the pairs encode the height, another the width, and the
    others the time."""
    in_space = pairs // 3
    batch, frames = times_BT.shape
    t = angles_in_time(times_BT, pairs - 2 * in_space)[:, :, None, None]
    h = angles_in_space(height, in_space, times_BT.device)[None, None, :, None]
    w = angles_in_space(width, in_space, times_BT.device)[None, None, None]
    places = (batch, frames, height, width, -1)
    return torch.cat([each.expand(places) for each in (t, h, w)], dim=-1)


def rotate(x_BALD: Tensor, angles_BLP: Tensor) -> Tensor:
    """Turn the pairs of channels of each head; the two of a pair are half a head apart."""
    cos, sin = (f[:, None].to(x_BALD.dtype) for f in (angles_BLP.cos(), angles_BLP.sin()))
    a, b = x_BALD.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Attention(nn.Module):
    """Self-attention with normalised queries and keys, over sequences (batch, length, channels).

    It normalises its input and zero-initialises its output, as a residual branch does; with `plain`
    it does neither.
    """

    def __init__(self, channels: int, head_width: int, plain: bool = False) -> None:
        super().__init__()
        self.heads = max(1, channels // head_width)
        self.norm = nn.Identity() if plain else nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.norm_q = nn.RMSNorm(channels // self.heads)
        self.norm_k = nn.RMSNorm(channels // self.heads)
        out = nn.Linear(channels, channels)
        self.out = out if plain else zero(out)

    @property
    def pairs(self) -> int:
        """Pairs of channels of a head, which a rotation turns."""
        return len(self.norm_q.weight) // 2

    def forward(self, x_BLC: Tensor, angles_BLP: Tensor | None = None) -> Tensor:
        qk_2BALD, v_1BALD = rearrange(
            self.qkv(self.norm(x_BLC)), "b l (n a d) -> n b a l d", n=3, a=self.heads
        ).split((2, 1))
        # Normalised queries and keys keep the logits bounded under bf16 (Henry et al., 2020).
        # Only their product matters, so one multiplication applies the weights of both norms.
        # F.normalize is faster than RMSNorm. It gives length 1 where RMSNorm gives the square
        # root of the width, hence the factor of the width in the product.
        q, k = F.normalize(qk_2BALD, dim=-1, eps=MIN_NORM)
        q = q * (q.shape[-1] * self.norm_q.weight * self.norm_k.weight).to(q.dtype)
        if angles_BLP is not None:
            q, k = rotate(q, angles_BLP), rotate(k, angles_BLP)
        y = attend(q, k, v_1BALD[0])
        return self.out(rearrange(y, "b a l d -> b l (a d)"))


class SpatialAttention(Attention):
    """Attention among the positions of each frame."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:  # type: ignore[override]
        b, _, t, h, w = x_BCTHW.shape
        y = super().forward(rearrange(x_BCTHW, "b c t h w -> (b t) (h w) c"))
        return x_BCTHW + rearrange(y, "(b t) (h w) c -> b c t h w", b=b, t=t, h=h, w=w)


class TemporalAttention(Attention):
    """Attention among the frames at each position, with an encoding of the frame number, or, where
    times are given, with rotary encoding of these."""

    def forward(self, x_BCTHW: Tensor, times_BT: Tensor | None = None) -> Tensor:
        b, c, t, h, w = x_BCTHW.shape
        sequence, angles = rearrange(x_BCTHW, "b c t h w -> (b h w) t c"), None
        if times_BT is None:
            positions = sinusoidal_encoding(torch.arange(t, device=x_BCTHW.device), c)
            sequence = sequence + positions.to(x_BCTHW.dtype)
        else:
            angles = angles_in_time(times_BT, self.pairs).repeat_interleave(h * w, dim=0)
        y = super().forward(sequence, angles)
        return x_BCTHW + rearrange(y, "(b h w) t c -> b c t h w", b=b, h=h, w=w)


class JointAttention(Attention):
    """Attention among all positions of all frames, with rotary encoding of seconds, height and
    width."""

    def forward(self, x_BCTHW: Tensor, times_BT: Tensor) -> Tensor:  # type: ignore[override]
        _, _, t, h, w = x_BCTHW.shape
        angles = angles_in_both(times_BT, h, w, self.pairs).flatten(1, 3)
        y = super().forward(rearrange(x_BCTHW, "b c t h w -> b (t h w) c"), angles)
        return x_BCTHW + rearrange(y, "b (t h w) c -> b c t h w", t=t, h=h, w=w)
