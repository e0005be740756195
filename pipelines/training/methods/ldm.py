"""Stage two: how the denoiser is trained on latents.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.training.methods.base import Batch, InitialWeights
from pipelines.training.methods.denoiser import DenoiserMethod
from pipelines.training.settings import TrainLDM
from pipelines.training.world import Draws, World
from vqvdm.checkpoint import save_model
from vqvdm.diffusion.objectives import add_noise, draw_times, drop_classes
from vqvdm.diffusion.unet import UNet
from vqvdm.tokenizer.pixels import PIXELS, Pixels


class LDMMethod(DenoiserMethod):
    """A denoiser on normalised latents, class dropped at random."""

    config: TrainLDM
    PREVIEW_STEPS = 8

    def __init__(
        self,
        config: TrainLDM,
        world: World,
        data: Mapping[str, Any],
        vqgan: str | None = None,
        initial: InitialWeights | None = None,
    ) -> None:
        """`data`, `vqgan` and `initial` as of `DenoiserMethod`."""
        torch.manual_seed(config.seed)
        net = UNet(config.model, data["shape"][0], len(data["classes"]))
        super().__init__(config, world, data, net, vqgan, initial)

    def loss(self, net: nn.Module, batch: Batch, draws: Draws, step: int) -> Tensor:
        return self._loss(net, batch, draws, self.config.objective.class_dropout)

    def _loss(self, net: nn.Module, batch: Batch, draws: Draws, dropout: float) -> Tensor:
        objective, (z, classes, fps) = self.config.objective, self.clips(batch)
        rows = len(z)
        noise, time_B = (
            draws.normal(rows, *z.shape[1:]),
            draw_times(objective.name, draws.normal(rows)),
        )
        noised = add_noise(objective, z, noise, time_B)
        classes = drop_classes(classes, draws.uniform(rows), dropout, self.denoiser.num_classes)
        with self.world.autocast():
            prediction = net(noised.z_BCTHW, noised.time_B, classes, fps)
        error_B = (prediction.float() - noised.target_BCTHW).square().flatten(1).mean(1)
        return (noised.weight_B * error_B).mean()

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        alone = World(device=self.world.device, dtype=self.world.dtype)
        losses = [
            self._loss(self.ema.average, batch, Draws(alone, self.config.seed, index), 0.0)
            for index, batch in enumerate(batches)
        ]
        return {"val/loss": float(np.mean([loss.item() for loss in losses]))}

    def about(self) -> dict[str, Any]:
        return {
            "model": asdict(self.config.model),
            "objective": asdict(self.config.objective),
            "latents": {name: self.data[name] for name in ("shape", "mean", "std")},
            "classes": self.data["classes"],
            "fps": self.data["fps"],
        }

    def export(self, folder: Path) -> None:
        super().export(folder)
        if self.data.get("in_pixels"):
            save_model(folder / "vqgan", Pixels(), {"model": PIXELS})
