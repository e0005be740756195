"""The losses of the VQGAN: reconstruction, VQ and adversarial.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vqvdm.ranges import NotNegative, Share
from vqvdm.tokenizer.discriminator import Judgement


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses. The discriminators start late, with a weight that grows."""

    l1: NotNegative = 1.0
    l2: NotNegative = 1.0
    vq: NotNegative = 1.0
    adversarial: NotNegative = 0.1
    """Norm of the adversarial gradient, as a share of that of the reconstruction."""
    adversarial_start: Share = 0.6
    """Share of the training after which the discriminators start."""
    adversarial_ramp: NotNegative = 0.2
    """Share of the training over which their weight grows to the full one."""
    perceptual: NotNegative = 1.0
    """Weight of the perceptual loss, if a network for it is given."""
    feature_matching: NotNegative = 0.0
    """Weight of the feature-matching loss, relative to the adversarial loss."""
    lecam: NotNegative = 0.01
    """Weight of the LeCAM regulariser."""


def reconstruction_loss(x_BCTHW: Tensor, y_BCTHW: Tensor, config: LossConfig) -> Tensor:
    """Weighted sum of mean absolute and mean squared error."""
    return config.l1 * F.l1_loss(y_BCTHW, x_BCTHW) + config.l2 * F.mse_loss(y_BCTHW, x_BCTHW)


def adversarial_weight(step: int, steps: int, config: LossConfig) -> float:
    """Weight of the generator's adversarial loss: 0, then a linear ramp to `adversarial`.

    Without the ramp the discriminators would destroy the reconstructions.
    """
    start = config.adversarial_start * steps
    ramp = max(1.0, config.adversarial_ramp * steps)
    return config.adversarial * min(1.0, max(0.0, (step - start) / ramp))


def adaptive_weight(gradient: Tensor, adversarial_gradient: Tensor) -> Tensor:
    """Factor that gives the adversarial gradient the norm of the reconstruction's, both at the
    decoder's last layer (Esser et al., 2021, equation 7); at most 10,000."""
    return (gradient.norm() / (adversarial_gradient.norm() + 1e-4)).clamp(max=1e4).detach()


def generator_hinge(fake_logits: Sequence[Tensor]) -> Tensor:
    """Hinge loss of the generator (Lim & Ye, 2017, equation 2), mean over the discriminators."""
    return torch.stack([-logits.float().mean() for logits in fake_logits]).mean()


def discriminator_hinge(real_logits: Sequence[Tensor], fake_logits: Sequence[Tensor]) -> Tensor:
    """Hinge loss of the discriminators (Lim & Ye, 2017, equation 2), mean over them."""
    losses = [
        0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())
        for real, fake in zip(real_logits, fake_logits, strict=True)
    ]
    return torch.stack(losses).mean()


def feature_matching(real: Judgement, fake: Judgement) -> Tensor:
    """Mean absolute difference of the features of all levels (Wang et al., 2018, equation 3)."""
    pairs = zip(real.features, fake.features, strict=True)
    return torch.stack([F.l1_loss(f.float(), r.detach().float()) for r, f in pairs]).mean()


class LeCAM:
    """Keeps real logits near the mean of past fake ones, and the reverse (Tseng et al., 2021,
    equation 4). This regularises discriminators that have little data. Each has its own means."""

    def __init__(
        self, discriminators: int, device: torch.device | None = None, decay: float = 0.99
    ) -> None:
        self.decay = decay
        self.real, self.fake = torch.zeros(2, discriminators, device=device)

    def update(self, real: Tensor, fake: Tensor, took: Tensor | None = None) -> None:
        """Add a step's mean logits of each discriminator, taken over all workers; `took` is a
        truth value on the device, and nothing changes where it is false."""
        for name, new in (("real", real), ("fake", fake)):
            old = getattr(self, name)
            mean = self.decay * old + (1 - self.decay) * new
            setattr(self, name, mean if took is None else torch.where(took, mean, old))

    def state(self) -> dict[str, Tensor]:
        return {"real": self.real, "fake": self.fake}

    def load(self, state: Mapping[str, Tensor | Sequence[float]]) -> None:
        """Restore the means; older states hold numbers instead of tensors."""
        self.real, self.fake = (
            torch.as_tensor(state[side], dtype=torch.float32, device=self.real.device)
            for side in ("real", "fake")
        )

    def penalty(self, real_logits: Sequence[Tensor], fake_logits: Sequence[Tensor]) -> Tensor:
        """The penalty, a mean over the discriminators, given in the order of `update`."""
        sides = zip(real_logits, fake_logits, self.real, self.fake, strict=True)
        return torch.stack(
            [
                F.relu(real.float() - mean_fake).square().mean()
                + F.relu(mean_real - fake.float()).square().mean()
                for real, fake, mean_real, mean_fake in sides
            ]
        ).mean()
