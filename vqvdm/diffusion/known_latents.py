"""Conditioning frames: which frames of a latent are known to the denoiser in training.

The clean latent of a conditioning frame replaces the noised one, and one more channel of the input
is 1 there, else 0 (masked conditioning; Höppe et al., 2022, arXiv:2206.07696; Voleti et al., 2022,
arXiv:2205.09853). It replaces the noised latent, which holds no further information, instead of
being concatenated: the input grows by one channel instead of doubling.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vqvdm.ranges import NotNegative, Share, check_ranges

KINDS = 3
"""Choices of conditioning frames in training: the first ones, both ends, any."""


@dataclass(frozen=True)
class ConditioningConfig:
    """How a denoiser is trained with conditioning frames."""

    share: Share = 0.0
    """Share of the clips that have conditioning frames; 0 trains a net that takes none. The other
    clips keep generation without them as good as it is: 0.5 is a good start."""
    noise: NotNegative = 0.1
    """Standard deviation of the noise on the latents of conditioning frames, where theirs is 1. The
    encoder sees a whole clip, so earlier latents hold traces of later frames: noise hides these."""

    def check(self) -> None:
        """`UserError` for a number out of its range."""
        check_ranges(self)


class KnownLatents(NamedTuple):
    """Latents (B, C, T, H, W), and which of their frames are conditioning frames (B, T)."""

    z_BCTHW: Tensor
    is_known_BT: Tensor

    def put(self, z_BCTHW: Tensor) -> Tensor:
        """Other latents, whose conditioning frames are replaced by these."""
        return torch.where(self.is_known_BT[:, None, :, None, None], self.z_BCTHW, z_BCTHW)

    def none(self) -> KnownLatents:
        """The same latents without conditioning frames."""
        return self._replace(is_known_BT=torch.zeros_like(self.is_known_BT))

    def cat(self, other: KnownLatents) -> KnownLatents:
        """Two batches as one."""
        return KnownLatents(*(torch.cat(pair) for pair in zip(self, other, strict=True)))

    def error(self, predicted_BCTHW: Tensor, target_BCTHW: Tensor) -> Tensor:
        """The mean squared error (B) of each clip over all but its conditioning frames, which need
        not be predicted. Clips have equal weight, however many frames remain."""
        error_BT = (predicted_BCTHW - target_BCTHW).square().mean((1, 3, 4))
        asked_BT = (~self.is_known_BT).float()
        return (error_BT * asked_BT).sum(1) / asked_BT.sum(1)


def draws_needed(frames: int) -> int:
    """Uniform numbers that `draw_known` takes for a clip."""
    return 3 + frames


def draw_known(uniform_BN: Tensor, frames: int, share: float) -> Tensor:
    """Which latent frames of each clip are conditioning frames, (B, T), from `draws_needed` uniform
    numbers of each.

    Of a `share` of the clips: the first K, as many at both ends, or any K frames, equally often;
    K is any number that leaves a frame to predict. At least two frames are needed.
    """
    assert frames > 1 and uniform_BN.shape[1] == draws_needed(frames)
    chosen_B1, kind_B1, size_B1 = uniform_BN[:, :3].unsqueeze(-1).unbind(1)
    place_T = torch.arange(frames, device=uniform_BN.device)
    count_B1 = 1 + (size_B1 * (frames - 1)).floor()
    first_BT = place_T < count_B1
    # Between the ends of two frames nothing is left to predict: there the first is chosen.
    ends_B1 = 1 + (size_B1 * ((frames - 1) // 2)).floor()
    ends_BT = (place_T < ends_B1) | ((place_T >= frames - ends_B1) & (frames > 2))
    any_BT = uniform_BN[:, 3:].argsort(1).argsort(1) < count_B1
    kind_B1 = (kind_B1 * KINDS).floor()
    known_BT = torch.where(kind_B1 == 0, first_BT, torch.where(kind_B1 == 1, ends_BT, any_BT))
    return known_BT & (chosen_B1 < share)
