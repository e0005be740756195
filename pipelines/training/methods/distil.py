"""How a student is distilled: it learns the average velocities of its teacher's guided flow.

Shapes: B batch, C channels, T frames, H height, W width, D width of a caption's embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.training.methods.base import Batch, InitialWeights
from pipelines.training.methods.denoiser import DenoiserMethod, ValidationLoss
from pipelines.training.settings import DistillLDM
from pipelines.training.world import Draws, World
from vqvdm.checkpoint import as_config, load_weights
from vqvdm.diffusion.average_velocity import by_halves, by_steps, grids
from vqvdm.diffusion.denoiser import Denoiser, build, build_for, described
from vqvdm.diffusion.guidance import guided, predict_with
from vqvdm.diffusion.known_latents import ConditioningConfig
from vqvdm.diffusion.objectives import ObjectiveConfig, add_noise

FLOW = ObjectiveConfig("flow")
"""What every teacher was trained with."""


@dataclass(frozen=True)
class Teacher:
    """A published bundle to learn from: its folder or URI, and its config.json."""

    folder: str
    bundle: Mapping[str, Any]

    def net(self) -> Denoiser:
        """The denoiser of the bundle, frozen."""
        from pipelines.io import storage

        net = build_for(self.bundle)
        with storage.local_folder(self.folder) as folder:
            load_weights(Path(folder), net)
        return net

    @property
    def conditioning(self) -> ConditioningConfig:
        """How conditioning frames were drawn in its training."""
        return as_config(ConditioningConfig, self.bundle.get("conditioning", {}))


def student_of(
    config: DistillLDM,
    world: World,
    data: Mapping[str, Any],
    teacher: Teacher,
    initial: InitialWeights | None = None,
) -> DistilMethod:
    """The method for a published teacher, whose tokenizer decodes the previews."""
    vqgan = f"{teacher.folder}/vqgan"
    return DistilMethod(config, world, data, teacher.net(), vqgan, initial, teacher.conditioning)


class DistilMethod(DenoiserMethod):
    """A student, which begins as its teacher, and is conditioned as it was: on class, caption, and
    frames of as large a share of the clips.

    A step teaches one grid: the finest by the teacher's own steps, each coarser one by two steps of
    the student's average on the grid below it. Every second step teaches the finest, every second
    of the others the next one, and so on.
    """

    config: DistillLDM

    def __init__(
        self,
        config: DistillLDM,
        world: World,
        data: Mapping[str, Any],
        teacher: Denoiser,
        vqgan: str | None = None,
        initial: InitialWeights | None = None,
        conditioning: ConditioningConfig | None = None,
    ) -> None:
        """`data`, `vqgan` and `initial` as of `DenoiserMethod`; `conditioning` is that of the
        teacher's training, None if that had no conditioning frames."""
        torch.manual_seed(config.seed)
        net = build(teacher.config, replace(teacher.inputs, intervals=True))
        missing, _ = net.load_state_dict(teacher.state_dict(), strict=False)
        assert all(name.startswith("conditioning.interval.") for name in missing)
        conditioning, steps = conditioning or ConditioningConfig(), config.sampling_steps
        super().__init__(config, world, data, net, conditioning, steps, vqgan, initial)
        self.teacher = world.place(teacher.eval().requires_grad_(False))
        world.compile(self.teacher, self.ema.average)

    def _error(
        self,
        net: nn.Module,
        batch: Batch,
        draws: Draws,
        count: int,
        dropout: float,
        share: float,
    ) -> Tensor:
        """The squared error of the average velocities over one of `count` intervals, the mean over
        a batch, where class and caption are dropped with probability `dropout`, and a `share` of
        the clips has conditioning frames."""
        config, (data, conditions) = self.config, self.clips(batch)
        rows, length = len(data), 1 / count
        noise = draws.normal(rows, *data.shape[1:])
        time_B = ((draws.uniform(rows) * count).floor() + 1) * length
        conditions = self.dropped(conditions, draws, dropout)
        noised = add_noise(FLOW, data, noise, time_B)
        z, given = noised.z_BCTHW, self.known(data, draws, share) if share else None
        conditions = conditions._replace(known=given)
        # As `samplers.held`: conditioning frames go straight from their noise to the data.
        straight = given._replace(z_BCTHW=noised.target_BCTHW) if given else None

        def held(velocity_BCTHW: Tensor) -> Tensor:
            return straight.put(velocity_BCTHW) if straight else velocity_BCTHW

        teacher = guided(
            partial(predict_with, self.teacher),
            conditions,
            config.guidance,
            config.guidance_interval,
        )

        def velocity(z_BCTHW: Tensor, time_B: Tensor) -> Tensor:
            return held(teacher(z_BCTHW, time_B))

        def student(net: nn.Module, z_BCTHW: Tensor, time_B: Tensor, length: float) -> Tensor:
            interval_B = torch.full_like(time_B, length)
            return predict_with(net, z_BCTHW, time_B, conditions, interval_B).float()

        def average(z_BCTHW: Tensor, time_B: Tensor, length: float) -> Tensor:
            return held(student(self.ema.average, z_BCTHW, time_B, length))

        with torch.no_grad(), self.world.autocast():
            if count == config.intervals:
                target = by_steps(velocity, z, time_B, length, config.teacher_steps)
            else:
                target = by_halves(average, z, time_B, length)
        with self.world.autocast():
            found = student(net, z, time_B, length)
        return given.error(found, target).mean() if given else (found - target).square().mean()

    def loss(self, net: nn.Module, batch: Batch, draws: Draws, step: int) -> Tensor:
        counts = grids(self.config.intervals)
        # The number of zeros at the end of a binary number.
        zeros = ((step + 1) & -(step + 1)).bit_length() - 1
        count = counts[-1 - min(zeros, len(counts) - 1)]
        dropout, share = self.config.class_dropout, self.conditioning.share
        return self._error(net, batch, draws, count, dropout, share)

    def validation_losses(self, share: float) -> dict[str, ValidationLoss]:
        return {
            f"_{count}": partial(
                self._error, self.ema.average, count=count, dropout=0.0, share=share
            )
            for count in grids(self.config.intervals)
        }

    def about(self) -> dict[str, Any]:
        config = self.config
        return described(self.denoiser.config) | {
            "objective": {
                "name": "average_velocity",
                "intervals": config.intervals,
                "guidance": config.guidance,
                "guidance_interval": config.guidance_interval,
            },
            "sampling_steps": config.sampling_steps,
            **self.of_data(),
        }
