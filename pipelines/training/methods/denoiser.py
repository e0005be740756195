"""What the trainings of a denoiser have in common, whatever it is taught.

Shapes: B batch, C channels, T frames, H height, W width, D width of a caption's embedding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from pipelines.io import rates
from pipelines.training.methods.base import Batch, InitialWeights, begin_with, mean_over_parts
from pipelines.training.optimise import Optimiser, scheduled_lr, step_together
from pipelines.training.settings import TrainJob
from pipelines.training.world import Draws, World
from pipelines.video import Frames
from vqvdm.checkpoint import save_model
from vqvdm.diffusion.denoiser import BLOCKS, Denoiser
from vqvdm.diffusion.guidance import Conditions
from vqvdm.diffusion.known_latents import (
    ConditioningConfig,
    KnownLatents,
    draw_known,
    draws_needed,
)
from vqvdm.diffusion.objectives import drop_classes, drop_conditions
from vqvdm.ema import EMA
from vqvdm.generator import VideoGenerator, load_vqgan
from vqvdm.text_encoder import standardised

PREVIEWS = 4
"""Samples shown while a denoiser is trained."""


class Clips(NamedTuple):
    """Normalised latents, and what the clips are conditioned on."""

    z_BCTHW: Tensor
    conditions: Conditions


ValidationLoss = Callable[[Batch, Draws], Tensor]
"""The loss of a batch, a scalar."""


class DenoiserMethod(ABC):
    """A denoiser on normalised latents, its optimiser and the average of its weights."""

    config: TrainJob

    def __init__(
        self,
        config: TrainJob,
        world: World,
        data: Mapping[str, Any],
        net: Denoiser,
        conditioning: ConditioningConfig,
        preview_steps: int,
        vqgan: str | None = None,
        initial: InitialWeights | None = None,
    ) -> None:
        """`data` is the index of the latents: shape, classes, mean and std of each channel, what
        encoded captions, and whether they are pixels. `conditioning` is how conditioning frames
        are drawn. A preview is sampled in `preview_steps` steps; `vqgan` is where the VQGAN lies
        that decodes it. `initial` are the weights to begin with, if not random ones."""
        self.config, self.world, self.data, self.vqgan = config, world, data, vqgan
        self.conditioning, self.preview_steps = conditioning, preview_steps
        self.initial = initial
        self._generator: VideoGenerator | None = None
        self.denoiser = world.place(net)
        self.ema = EMA(self.denoiser, config.ema_decay)
        world.checkpoint_activations(self.denoiser, BLOCKS)
        world.compile(self.denoiser, replayed=config.accumulate == 1)
        self._ddp = world.wrap(self.denoiser)
        adamw = torch.optim.AdamW(
            [each for each in self.denoiser.parameters() if each.requires_grad],
            config.lr,
            (0.9, 0.99),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.optimiser = Optimiser(adamw, world, config.grad_clip)
        mean, std = (torch.tensor(data[name], device=world.device) for name in ("mean", "std"))
        self.mean_C111, self.std_C111 = mean.view(-1, 1, 1, 1), std.view(-1, 1, 1, 1)
        if self.denoiser.inputs.text_width:
            self.text_mean_D = torch.tensor(data["text"]["mean"], device=world.device)

    @abstractmethod
    def loss(self, net: nn.Module, batch: Batch, draws: Draws, step: int) -> Tensor:
        """The loss of a part of the batch of a step."""

    @abstractmethod
    def validation_losses(self, share: float) -> dict[str, ValidationLoss]:
        """Losses of the averaged weights where a share of the clips has conditioning frames and
        nothing is dropped, each by the end of its name."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """The config.json of the bundle."""

    def of_data(self) -> dict[str, Any]:
        """The part of the config.json on what the net is conditioned on, and on its latents."""
        found = {
            "latents": {name: self.data[name] for name in ("shape", "mean", "std")},
            "classes": self.data["classes"],
            **rates.of(self.data),
        }
        if self.denoiser.inputs.known_frames:
            found["conditioning"] = asdict(self.conditioning)
        if self.denoiser.inputs.text_width:
            text = self.data["text"]
            found["text"] = {name: value for name, value in text.items() if name != "clips"}
        return found

    def start(self) -> str | None:
        return begin_with(self.initial, self.denoiser, self.ema.average, self.data["classes"])

    def clips(self, batch: Batch) -> Clips:
        """What a batch holds, on the device, without conditioning frames."""
        tensors = batch.to(self.world.device).tensors
        z = (tensors["latent"] - self.mean_C111) / self.std_C111
        classes = tensors["class_index"]
        no_class = self.denoiser.inputs.num_classes
        classes = torch.where(classes < 0, no_class, classes)
        text = None
        if self.denoiser.inputs.text_width:
            text = standardised(tensors["text"], self.text_mean_D, self.data["text"]["std"])
        return Clips(z, Conditions(classes, tensors["fps"], no_class, text))

    @staticmethod
    def dropped(conditions: Conditions, draws: Draws, dropout: float) -> Conditions:
        """With classes, and captions where the net takes them, dropped from some clips."""
        class_B, text_BD, no_class = conditions.class_B, conditions.text_BD, conditions.no_class
        uniform_B = draws.uniform(len(class_B))
        if text_BD is None:
            class_B = drop_classes(class_B, uniform_B, dropout, no_class)
            return conditions._replace(class_B=class_B)
        either_B = draws.uniform(len(class_B))
        class_B, text_BD = drop_conditions(class_B, text_BD, uniform_B, either_B, dropout, no_class)
        return conditions._replace(class_B=class_B, text_BD=text_BD)

    def known(self, z_BCTHW: Tensor, draws: Draws, share: float) -> KnownLatents:
        """Conditioning frames of a share of the clips: their latents with noise of their own."""
        rows, frames = len(z_BCTHW), z_BCTHW.shape[2]
        uniform_BN = draws.uniform(rows, draws_needed(frames))
        noise = self.conditioning.noise * draws.normal(rows, *z_BCTHW.shape[1:])
        return KnownLatents(z_BCTHW + noise, draw_known(uniform_BN, frames, share))

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        # Those without conditioning frames compare with a net that takes none.
        shares = {"val/loss": 0.0}
        if self.conditioning.share:
            shares["val/loss_given"] = 1.0
        losses = {
            name + end: loss
            for name, share in shares.items()
            for end, loss in self.validation_losses(share).items()
        }
        alone = World(device=self.world.device, dtype=self.world.dtype)
        found: dict[str, list[float]] = {name: [] for name in losses}
        clips: list[int] = []
        for index, batch in enumerate(batches):
            clips.append(len(batch.tensors["fps"]))
            for name, loss in losses.items():
                found[name].append(loss(batch, Draws(alone, self.config.seed, index)).item())
        return {name: float(np.average(values, weights=clips)) for name, values in found.items()}

    def train_step(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        parts = batch.split(self.config.accumulate)
        metrics = []
        for index, part in enumerate(parts):
            draws = Draws(self.world, self.config.seed, step, index, len(parts))
            with self.world.collecting(self._ddp, last=index == len(parts) - 1):
                loss = self.loss(self._ddp, part, draws, step)
                self.optimiser.backward(loss / len(parts))
            metrics.append({"loss": loss})
        step_together((self.optimiser, scheduled_lr(step, self.config)))
        self.ema.update(self.denoiser, step)
        return mean_over_parts(metrics) | self.optimiser.metrics()

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
            self._generator = VideoGenerator(self.ema.average, vqgan, self.about())
        classes = (list[str | None](self.data["classes"]) or [None])[:PREVIEWS]
        videos = self._generator.sample(
            classes, self.data["fps"][0], steps=self.preview_steps, seed=self.config.seed
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

    def export(self, folder: Path) -> None:
        save_model(folder, self.ema.average, self.about())
