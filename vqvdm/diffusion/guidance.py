"""What a denoiser is conditioned on, and classifier-free guidance towards it.

Shapes: B batch, C channels, T frames, H height, W width, D width of a caption's embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vqvdm.diffusion.known_latents import KnownLatents
from vqvdm.diffusion.objectives import per_clip


class Conditions(NamedTuple):
    """What each clip of a batch is conditioned on, beside its time."""

    class_B: Tensor
    """Class index; `no_class` stands for none."""
    fps_B: Tensor
    """Frames/s."""
    no_class: int
    """The number of classes."""
    text_BD: Tensor | None = None
    """Standardised embeddings of captions, where zeros stand for none; None for a net that takes
    none."""
    known: KnownLatents | None = None
    """Conditioning frames; None for none in the whole batch."""

    @property
    def is_guidable(self) -> bool:
        """Whether there may be something to be guided towards. It depends on which conditions there
        are, not on their values: to read these, the host would have to wait for a GPU."""
        return self.no_class > 0 or self.text_BD is not None or self.known is not None

    def without(self) -> Conditions:
        """What the unconditional prediction is conditioned on: the frame rate alone."""
        return self._replace(
            class_B=torch.full_like(self.class_B, self.no_class),
            text_BD=None if self.text_BD is None else torch.zeros_like(self.text_BD),
            known=None if self.known is None else self.known.none(),
        )

    def cat(self, other: Conditions) -> Conditions:
        """Two batches for one net as one batch."""
        text_BD, known = self.text_BD, self.known
        if text_BD is not None:
            assert other.text_BD is not None
            text_BD = torch.cat([text_BD, other.text_BD])
        if known is not None:
            assert other.known is not None
            known = known.cat(other.known)
        return Conditions(
            torch.cat([self.class_B, other.class_B]),
            torch.cat([self.fps_B, other.fps_B]),
            self.no_class,
            text_BD,
            known,
        )


Velocity = Callable[[Tensor, Tensor], Tensor]
"""Noised latents (B, C, T, H, W) and the time (B) of each to velocities, or what else a denoiser
predicts (B, C, T, H, W)."""
Predict = Callable[[Tensor, Tensor, Conditions], Tensor]
"""Noised latents (B, C, T, H, W), the time (B) of each and their conditions to the prediction that
a denoiser's objective asks for (B, C, T, H, W)."""


def predict_with(
    net: Callable[..., Tensor],
    z_BCTHW: Tensor,
    time_B: Tensor,
    conditions: Conditions,
    interval_B: Tensor | None = None,
) -> Tensor:
    """What a net, with arguments as of `UNet.forward`, predicts under conditions."""
    inputs = [time_B, conditions.class_B, conditions.fps_B]
    if interval_B is not None:
        inputs.append(interval_B)
    optional: dict[str, Tensor] = {}
    if conditions.known is not None:
        z_BCTHW = conditions.known.put(z_BCTHW)
        optional["is_known_BT"] = conditions.known.is_known_BT
    if conditions.text_BD is not None:
        optional["text_BD"] = conditions.text_BD
    return net(z_BCTHW, *inputs, **optional)


def guided(
    predict: Predict,
    conditions: Conditions,
    guidance: float,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Velocity:
    """Classifier-free guidance: u + g (c - u) (Ho & Salimans, 2022, equation 6), in float32.

    The conditional prediction c and the unconditional one u are made in one batch, c first. At
    times outside the interval g is 1 (Kynkäänniemi et al., 2024). u is left out if `guidance` is 1
    or nothing can be guided towards.
    """

    def conditional(z_BCTHW: Tensor, time_B: Tensor) -> Tensor:
        return predict(z_BCTHW, time_B, conditions).float()

    if guidance == 1.0 or not conditions.is_guidable:
        return conditional
    both = conditions.cat(conditions.without())
    first, last = interval

    def guide(z_BCTHW: Tensor, time_B: Tensor) -> Tensor:
        found = predict(torch.cat([z_BCTHW, z_BCTHW]), torch.cat([time_B, time_B]), both)
        c_BCTHW, u_BCTHW = found.float().chunk(2)
        is_within_B = (first <= time_B) & (time_B <= last)
        weight_B = torch.where(is_within_B, guidance, 1.0)
        return u_BCTHW + per_clip(weight_B) * (c_BCTHW - u_BCTHW)

    return guide
