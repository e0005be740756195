"""Stage two: how the denoiser is trained on latents.

Shapes: B batch, C channels, T frames, H height, W width, D width of a caption's embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.training.methods.base import Batch, InitialWeights, take_initial
from pipelines.training.methods.denoiser import DenoiserMethod, ValidationLoss
from pipelines.training.settings import TrainLDM
from pipelines.training.world import Draws, World
from vqvdm.checkpoint import save_model
from vqvdm.diffusion import lora
from vqvdm.diffusion.conditioning import NetInputs
from vqvdm.diffusion.denoiser import Denoiser, build, described
from vqvdm.diffusion.guidance import predict_with
from vqvdm.diffusion.objectives import add_noise, draw_times
from vqvdm.errors import UserError
from vqvdm.tokenizer.pixels import PIXELS, Pixels

PREVIEW_STEPS = 8
"""Sampling steps of a preview."""


def denoiser_of(config: TrainLDM, data: Mapping[str, Any]) -> Denoiser:
    """The net of a training, at random; with --lora.rank, frozen and with adapters. `data` as of
    `DenoiserMethod`; `UserError` for a rank that is too high."""
    inputs = NetInputs(
        data["shape"][0],
        len(data["classes"]),
        known_frames=config.conditioning.share > 0,
        text_width=data["text"]["width"] if "text" in data else 0,
    )
    net = build(config.net, inputs)
    if config.lora.rank:
        lora.adapt(net, config.lora)
    return net


class LDMMethod(DenoiserMethod):
    """A denoiser on normalised latents, its conditions dropped at random."""

    config: TrainLDM

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
        net = denoiser_of(config, data)
        super().__init__(
            config, world, data, net, config.conditioning, PREVIEW_STEPS, vqgan, initial
        )

    def start(self) -> str | None:
        if self.initial is None or not self.config.lora.rank:
            return super().start()
        plain = lora.merged(self.ema.average)
        taken = take_initial(self.initial, plain, self.data["classes"])
        if random := lora.frozen(self.denoiser) & {*taken.from_scratch, *taken.in_part}:
            raise UserError(
                f"--lora.rank {self.config.lora.rank}: layers that stay as they are have to be "
                f"taken over whole, and {sorted(random)[0]} does not fit; choose a net and latents "
                "like those of --init-from, or train without adapters"
            )
        for net in (self.denoiser, self.ema.average):
            lora.load_frozen(net, plain.state_dict())
        return str(taken)

    def loss(self, net: nn.Module, batch: Batch, draws: Draws, step: int) -> Tensor:
        config = self.config
        return self._loss(
            net, batch, draws, config.objective.class_dropout, config.conditioning.share
        )

    def _loss(
        self, net: nn.Module, batch: Batch, draws: Draws, dropout: float, share: float
    ) -> Tensor:
        """The loss where class and caption are dropped with probability `dropout`, and a `share`
        of the clips has conditioning frames."""
        objective, (z, conditions) = self.config.objective, self.clips(batch)
        rows = len(z)
        noise, time_B = (
            draws.normal(rows, *z.shape[1:]),
            draw_times(objective.name, draws.normal(rows)),
        )
        noised = add_noise(objective, z, noise, time_B)
        conditions = self.dropped(conditions, draws, dropout)
        given = self.known(z, draws, share) if share else None
        conditions = conditions._replace(known=given)
        with self.world.autocast():
            prediction = predict_with(net, noised.z_BCTHW, noised.time_B, conditions)
        prediction = prediction.float()
        if given:
            error_B = given.error(prediction, noised.target_BCTHW)
        else:
            error_B = (prediction - noised.target_BCTHW).square().flatten(1).mean(1)
        return (noised.weight_B * error_B).mean()

    def validation_losses(self, share: float) -> dict[str, ValidationLoss]:
        return {"": partial(self._loss, self.ema.average, dropout=0.0, share=share)}

    def about(self) -> dict[str, Any]:
        config = self.config
        return described(config.net) | {"objective": asdict(config.objective)} | self.of_data()

    def export(self, folder: Path) -> None:
        if self.config.lora.rank:
            save_model(folder, lora.merged(self.ema.average), self.about())
            lora.save_adapter(folder / "adapter", self.ema.average, self.config.lora)
        else:
            super().export(folder)
        if self.data.get("in_pixels"):
            save_model(folder / "vqgan", Pixels(), {"model": PIXELS})
