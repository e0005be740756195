"""Conditioning on frames: which frames of a latent are known, and how the denoiser is told.

Where a frame is known, its clean latent takes the place of the noised one, and one more channel of
the input is 1, else 0 (masked conditioning; Höppe et al., 2022, arXiv:2206.07696; Voleti et al.,
2022, arXiv:2205.09853). In place rather than beside: the noised latent says nothing of a frame that
is known, and the net grows by one channel instead of by all of them.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vqvdm.ranges import NotNegative, Share, check_ranges

KINDS = 3
"""Ways in which frames are known in training: the first ones, both ends, any."""


@dataclass(frozen=True)
class ConditioningConfig:
    """How a denoiser learns to go on from frames that are given."""

    share: Share = 0.0
    """Share of the clips of which some frames are given; 0 trains a net that takes none. The
    others keep generation from nothing as good as it is: 0.5 is a good start."""
    noise: NotNegative = 0.1
    """Standard deviation of the noise on given latents, of 1: it hides what an encoder that sees a
    whole clip writes of later frames into earlier latents."""

    def check(self) -> None:
        """`UserError` for a number out of its range."""
        check_ranges(self)


class KnownLatents(NamedTuple):
    """Latents (B, C, T, H, W), and which of their frames are known (B, T)."""

    z_BCTHW: Tensor
    is_known_BT: Tensor

    def put(self, z_BCTHW: Tensor) -> Tensor:
        """Other latents, with those that are known in their place."""
        return torch.where(self.is_known_BT[:, None, :, None, None], self.z_BCTHW, z_BCTHW)

    def none(self) -> KnownLatents:
        """Nothing known, of as many latents."""
        return self._replace(is_known_BT=torch.zeros_like(self.is_known_BT))

    def cat(self, other: KnownLatents) -> KnownLatents:
        """Two batches as one."""
        return KnownLatents(*(torch.cat(pair) for pair in zip(self, other, strict=True)))

    def error(self, predicted_BCTHW: Tensor, target_BCTHW: Tensor) -> Tensor:
        """The mean squared error (B) of each clip over the frames that are not known: what is given
        need not be predicted, and each clip counts as much as another."""
        error_BT = (predicted_BCTHW - target_BCTHW).square().mean((1, 3, 4))
        asked_BT = (~self.is_known_BT).float()
        return (error_BT * asked_BT).sum(1) / asked_BT.sum(1)


def draws_needed(frames: int) -> int:
    """Uniform numbers that `draw_known` takes for a clip."""
    return 3 + frames


def draw_known(uniform_BN: Tensor, frames: int, share: float) -> Tensor:
    """Which latent frames of each clip are given, (B, T), from `draws_needed` uniform numbers of
    each.

    Of a `share` of the clips: the first K, as many at both ends, or any K frames, equally often;
    K is any number that leaves a frame to predict. At least two frames are needed.
    """
    assert frames > 1 and uniform_BN.shape[1] == draws_needed(frames)
    chosen_B1, kind_B1, size_B1 = uniform_BN[:, :3].unsqueeze(-1).unbind(1)
    place_T = torch.arange(frames, device=uniform_BN.device)
    count_B1 = 1 + (size_B1 * (frames - 1)).floor()
    first_BT = place_T < count_B1
    # Two frames have no middle: there the first is given.
    ends_B1 = 1 + (size_B1 * ((frames - 1) // 2)).floor()
    ends_BT = (place_T < ends_B1) | ((place_T >= frames - ends_B1) & (frames > 2))
    any_BT = uniform_BN[:, 3:].argsort(1).argsort(1) < count_B1
    kind_B1 = (kind_B1 * KINDS).floor()
    known_BT = torch.where(kind_B1 == 0, first_BT, torch.where(kind_B1 == 1, ends_BT, any_BT))
    return known_BT & (chosen_B1 < share)
