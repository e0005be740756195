"""The discriminators of the VQGAN in training.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipelines.training.methods.base import mean_over_parts
from pipelines.training.optimise import Optimiser
from pipelines.training.settings import TrainVQGAN
from pipelines.training.world import World
from vqvdm.tokenizer.discriminator import Discriminators
from vqvdm.tokenizer.losses import (
    LeCAM,
    discriminator_hinge,
    feature_matching,
    generator_hinge,
)

SIDES = ("real", "fake")


class Pair(NamedTuple):
    """Clips and their reconstructions."""

    x_BCTHW: Tensor
    y_BCTHW: Tensor
    shown_B: Tensor
    """The frame of each clip that image networks see, the same in all losses."""


class Critic:
    """The discriminators, their optimiser, and what LeCAM remembers of their logits."""

    def __init__(self, config: TrainVQGAN, world: World) -> None:
        self.config, self.world = config, world
        self.nets = world.place(Discriminators(config.discriminator))
        self.lecam = LeCAM(len(self.nets.names), world.device)
        world.compile(self.nets)
        self._ddp = world.wrap(self.nets)
        adamw = torch.optim.AdamW(
            self.nets.parameters(), config.discriminator_lr, (0.5, 0.9), fused=True
        )
        self.optimiser = Optimiser(adamw, world, config.grad_clip)

    def lr(self, tokenizer_lr: float) -> float:
        """The rate of a step, given the tokenizer's."""
        config = self.config
        share = tokenizer_lr / config.lr if config.discriminator_tied else 1.0
        return config.discriminator_lr * share

    def adversarial_loss(self, pair: Pair) -> Tensor:
        """What the discriminators hold against reconstructions."""
        matching = self.config.loss.feature_matching
        self.nets.requires_grad_(False)
        with self.world.autocast():
            fake = self.nets(pair.y_BCTHW, pair.shown_B)
            loss = generator_hinge(fake.logits)
            if matching:
                real = self.nets(pair.x_BCTHW, pair.shown_B)
                loss = loss + matching * feature_matching(real, fake)
        self.nets.requires_grad_(True)
        return loss

    def backward(self, pairs: Sequence[Pair]) -> dict[str, Tensor]:
        """Add the gradient of all parts of a batch; its losses."""
        metrics = []
        for index, pair in enumerate(pairs):
            with self.world.collecting(self._ddp, last=index == len(pairs) - 1):
                found = self._judge(pair)
                loss = found["discriminator"] + self.config.loss.lecam * found["lecam"]
                self.optimiser.backward(loss / len(pairs))
                metrics.append(found)
        return mean_over_parts(metrics)

    def remember(self, metrics: Mapping[str, Tensor], took: Tensor) -> None:
        """Add a step's logits to the means of LeCAM, unless it was skipped."""
        sides = [[metrics[name] for name in self._logit_names(side)] for side in SIDES]
        means = self.world.average(torch.stack([torch.stack(side) for side in sides]))
        self.lecam.update(means[0], means[1], took)

    def _logit_names(self, side: str) -> list[str]:
        """What the mean logits of each discriminator are logged as."""
        return [f"logits/{side}_{name}" for name in self.nets.names]

    def _judge(self, pair: Pair) -> dict[str, Tensor]:
        """Losses of the discriminators on real clips and their reconstructions."""
        both_BCTHW = torch.cat([pair.x_BCTHW, pair.y_BCTHW])
        with self.world.autocast():
            both = self._ddp(both_BCTHW, torch.cat([pair.shown_B, pair.shown_B]))
        real, fake = both.halves()
        means = {
            name: logits.detach().float().mean()
            for side, part in zip(SIDES, (real, fake), strict=True)
            for name, logits in zip(self._logit_names(side), part.logits, strict=True)
        }
        return {
            "discriminator": discriminator_hinge(real.logits, fake.logits),
            "lecam": self.lecam.penalty(real.logits, fake.logits),
        } | means

    def state(self) -> dict[str, Any]:
        return {
            "critic": self.nets.state_dict(),
            "critic_optimiser": self.optimiser.state(),
            "lecam": self.lecam.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.nets.load_state_dict(state["critic"])
        self.optimiser.load(state["critic_optimiser"])
        self.lecam.load(state["lecam"])
