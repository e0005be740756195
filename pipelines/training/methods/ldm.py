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
from einops import rearrange
from torch import Tensor, nn

from pipelines.training.methods.base import Batch, mean_over_parts
from pipelines.training.optimise import Optimiser, scheduled_lr, step_together
from pipelines.training.settings import TrainLDM
from pipelines.training.world import Draws, World
from pipelines.video import Frames
from vqvdm.checkpoint import save_model
from vqvdm.diffusion.objectives import add_noise, draw_times, drop_classes
from vqvdm.diffusion.unet import Block, UNet
from vqvdm.ema import EMA
from vqvdm.generator import VideoGenerator, load_vqgan
from vqvdm.tokenizer.pixels import PIXELS, Pixels

PREVIEWS, PREVIEW_STEPS = 4, 8
"""Samples shown while the diffusion model is trained, and their sampling steps."""


class LDMMethod:
    """A denoiser on normalised latents, class dropped at random."""

    def __init__(
        self,
        config: TrainLDM,
        world: World,
        data: Mapping[str, Any],
        vqgan: str | None = None,
    ) -> None:
        """`data` is the index of the latents: shape, classes, mean and std of each channel, and
        whether they are pixels. `vqgan` is where the VQGAN lies that decodes previews."""
        self.config, self.world, self.data, self.vqgan = config, world, data, vqgan
        self._generator: VideoGenerator | None = None
        torch.manual_seed(config.seed)
        net = UNet(config.model, data["shape"][0], len(data["classes"]))
        self.denoiser = world.place(net)
        self.ema = EMA(self.denoiser, config.ema_decay)
        world.checkpoint_activations(self.denoiser, Block)
        world.compile(self.denoiser, replayed=config.accumulate == 1)
        self._ddp = world.wrap(self.denoiser)
        adamw = torch.optim.AdamW(
            self.denoiser.parameters(),
            config.lr,
            (0.9, 0.99),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.optimiser = Optimiser(adamw, world, config.grad_clip)
        mean, std = (torch.tensor(data[name], device=world.device) for name in ("mean", "std"))
        self.mean_C111, self.std_C111 = mean.view(-1, 1, 1, 1), std.view(-1, 1, 1, 1)

    def _loss(self, net: nn.Module, batch: Batch, draws: Draws, dropout: float) -> Tensor:
        objective, tensors = self.config.objective, batch.to(self.world.device).tensors
        z = (tensors["latent"] - self.mean_C111) / self.std_C111
        classes, fps = tensors["class_index"], tensors["fps"]
        no_class = self.denoiser.num_classes
        classes = torch.where(classes < 0, no_class, classes)
        rows = len(z)
        noise, time_B = (
            draws.normal(rows, *z.shape[1:]),
            draw_times(objective.name, draws.normal(rows)),
        )
        noised = add_noise(objective, z, noise, time_B)
        classes = drop_classes(classes, draws.uniform(rows), dropout, no_class)
        with self.world.autocast():
            prediction = net(noised.z_BCTHW, noised.time_B, classes, fps)
        error_B = (prediction.float() - noised.target_BCTHW).square().flatten(1).mean(1)
        return (noised.weight_B * error_B).mean()

    def train_step(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        parts = batch.split(self.config.accumulate)
        metrics = []
        for index, part in enumerate(parts):
            draws = Draws(self.world, self.config.seed, step, index, len(parts))
            with self.world.collecting(self._ddp, last=index == len(parts) - 1):
                loss = self._loss(self._ddp, part, draws, self.config.objective.class_dropout)
                self.optimiser.backward(loss / len(parts))
            metrics.append({"loss": loss})
        step_together((self.optimiser, scheduled_lr(step, self.config)))
        self.ema.update(self.denoiser, step)
        return mean_over_parts(metrics) | self.optimiser.metrics()

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        alone = World(device=self.world.device, dtype=self.world.dtype)
        losses = [
            self._loss(self.ema.average, batch, Draws(alone, self.config.seed, index), 0.0)
            for index, batch in enumerate(batches)
        ]
        return {"val/loss": float(np.mean([loss.item() for loss in losses]))}

    @torch.no_grad()
    def preview(self, batch: Batch) -> Frames | None:
        """Samples of the averaged weights, the first classes and always the same noise, in a row;
        None where there is no VQGAN to decode them."""
        if self.vqgan is None:
            return None
        if self._generator is None:
            from pipelines.io import storage

            with storage.local_folder(self.vqgan) as folder:
                vqgan = load_vqgan(folder, self.world.device)
            self._generator = VideoGenerator(self.ema.average, vqgan, self._about())
        classes = (list[str | None](self.data["classes"]) or [None])[:PREVIEWS]
        videos = self._generator.sample(
            classes, self.data["fps"][0], steps=PREVIEW_STEPS, seed=self.config.seed
        )
        return rearrange(videos, "b t h w c -> t h (b w) c")

    def state(self) -> dict[str, Any]:
        return {
            "denoiser": self.denoiser.state_dict(),
            "ema": self.ema.average.state_dict(),
            "optimiser": self.optimiser.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.denoiser.load_state_dict(state["denoiser"])
        self.ema.average.load_state_dict(state["ema"])
        self.optimiser.load(state["optimiser"])

    def _about(self) -> dict[str, Any]:
        return {
            "model": asdict(self.config.model),
            "objective": asdict(self.config.objective),
            "latents": {name: self.data[name] for name in ("shape", "mean", "std")},
            "classes": self.data["classes"],
            "fps": self.data["fps"],
        }

    def export(self, folder: Path) -> None:
        save_model(folder, self.ema.average, self._about())
        if self.data.get("in_pixels"):
            save_model(folder / "vqgan", Pixels(), {"model": PIXELS})
