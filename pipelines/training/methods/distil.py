"""How a student is distilled: it learns the average velocities of its teacher's guided flow.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.io import rates
from pipelines.training.methods.base import Batch, InitialWeights
from pipelines.training.methods.denoiser import DenoiserMethod
from pipelines.training.settings import DistillLDM
from pipelines.training.world import Draws, World
from vqvdm.checkpoint import load_weights
from vqvdm.diffusion.average_velocity import by_halves, by_steps, grids, guided_velocity
from vqvdm.diffusion.denoiser import Denoiser, build, described, read_config
from vqvdm.diffusion.objectives import ObjectiveConfig, add_noise, drop_classes

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

        channels, classes = self.bundle["latents"]["shape"][0], self.bundle["classes"]
        with storage.local_folder(self.folder) as folder:
            net = build(read_config(self.bundle), channels, len(classes))
            load_weights(Path(folder), net)
        return net


def student_of(
    config: DistillLDM,
    world: World,
    data: Mapping[str, Any],
    teacher: Teacher,
    initial: InitialWeights | None = None,
) -> DistilMethod:
    """The method for a published teacher, whose tokenizer decodes the previews."""
    return DistilMethod(config, world, data, teacher.net(), f"{teacher.folder}/vqgan", initial)


class DistilMethod(DenoiserMethod):
    """A student, which begins as its teacher.

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
    ) -> None:
        """`data`, `vqgan` and `initial` as of `DenoiserMethod`."""
        self.PREVIEW_STEPS = config.sampling_steps
        torch.manual_seed(config.seed)
        net = build(teacher.config, data["shape"][0], teacher.num_classes, intervals=True)
        missing, _ = net.load_state_dict(teacher.state_dict(), strict=False)
        assert all(name.startswith("conditioning.interval.") for name in missing)
        super().__init__(config, world, data, net, vqgan, initial)
        self.teacher = world.place(teacher.eval().requires_grad_(False))
        world.compile(self.teacher, self.ema.average)

    def _error(
        self, net: nn.Module, batch: Batch, draws: Draws, count: int, dropout: float
    ) -> Tensor:
        """The squared error of the average velocities over one of `count` intervals, the mean over
        a batch."""
        config, (data, classes, fps, _) = self.config, self.clips(batch)
        rows, length, no_class = len(data), 1 / count, self.denoiser.num_classes
        noise = draws.normal(rows, *data.shape[1:])
        time_B = ((draws.uniform(rows) * count).floor() + 1) * length
        classes = drop_classes(classes, draws.uniform(rows), dropout, no_class)
        z = add_noise(FLOW, data, noise, time_B).z_BCTHW

        def average(z_BCTHW: Tensor, time_B: Tensor, length: float) -> Tensor:
            interval_B = torch.full_like(time_B, length)
            return self.ema.average(z_BCTHW, time_B, classes, fps, interval_B).float()

        with torch.no_grad(), self.world.autocast():
            if count == config.intervals:
                velocity = guided_velocity(
                    self.teacher, no_class, classes, fps, config.guidance, config.guidance_interval
                )
                target = by_steps(velocity, z, time_B, length, config.teacher_steps)
            else:
                target = by_halves(average, z, time_B, length)
        with self.world.autocast():
            found = net(z, time_B, classes, fps, torch.full_like(time_B, length))
        return (found.float() - target).square().mean()

    def loss(self, net: nn.Module, batch: Batch, draws: Draws, step: int) -> Tensor:
        counts = grids(self.config.intervals)
        # The number of zeros at the end of a binary number.
        zeros = ((step + 1) & -(step + 1)).bit_length() - 1
        count = counts[-1 - min(zeros, len(counts) - 1)]
        return self._error(net, batch, draws, count, self.config.class_dropout)

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        alone, kept = World(device=self.world.device, dtype=self.world.dtype), list(batches)
        found = {}
        for count in grids(self.config.intervals):
            losses = [
                self._error(
                    self.ema.average, batch, Draws(alone, self.config.seed, index), count, 0.0
                )
                for index, batch in enumerate(kept)
            ]
            if losses:
                found[f"val/loss_{count}"] = float(np.mean([loss.item() for loss in losses]))
        return found

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
            "latents": {name: self.data[name] for name in ("shape", "mean", "std")},
            "classes": self.data["classes"],
            **rates.of(self.data),
        }
