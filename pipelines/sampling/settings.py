"""What `sample` takes, and whatever else samples."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from pipelines.settings import PoolJob, Switch
from vqvdm.diffusion.samplers import SamplingOptions
from vqvdm.errors import UserError


@dataclass(frozen=True)
class Sampling(PoolJob):
    """How videos are sampled."""

    ldm: str = "base"
    """Name of the model."""
    steps: int | None = None
    """Sampling steps; by default a distilled model's own number, or --default-steps. A distilled
    model takes 1, 2 or 4, or what else it was distilled for."""
    default_steps: int = 20
    """Sampling steps of a model that is not distilled, unless --steps is given."""
    sampler: str | None = None
    """heun, euler or dpm for a flow; ddpm, ddim or dpm otherwise; by default the model's best."""
    guidance: float = 2.0
    """Weight of classifier-free guidance; 1 is none. A distilled model has its own built in,
    whatever this says."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Times from 0 (data) to 1 (noise) within which guidance is applied."""
    batch_size: int = 20
    """Videos made at once by a worker."""
    seed: int = 0
    compile: Switch = "auto"
    """`torch.compile` of the nets; auto is on with a GPU and many batches for a worker."""

    NOT_RECIPE: ClassVar[frozenset[str]] = PoolJob.NOT_RECIPE | {"compile", "default_steps"}

    def check(self) -> None:
        super().check()
        self.options.check()
        if self.default_steps < 1:
            raise UserError("--default-steps must be at least 1")

    def for_model(self, bundle: Mapping[str, Any]) -> Self:
        """The same with the number of steps that a bundle is sampled in, by its config.json."""
        resolved = copy.copy(self)  # `replace` would lose the preset's name
        steps = self.steps or bundle.get("sampling_steps") or self.default_steps
        object.__setattr__(resolved, "steps", steps)
        return resolved

    def sampled_by(self) -> dict[str, Any]:
        """All settings that the pixels of a sample depend on, besides the model's files, the
        device and what is asked for. A setting added to `Sampling` is among them."""
        # A model is known by its files, not its name; `steps` are those that hold for it.
        ignored = Sampling.NOT_RECIPE | {"ldm", "default_steps"}
        return {f.name: getattr(self, f.name) for f in fields(Sampling) if f.name not in ignored}

    @property
    def options(self) -> SamplingOptions:
        return SamplingOptions(self.steps, self.guidance, self.sampler, self.guidance_interval)


@dataclass(frozen=True)
class Sample(Sampling):
    """Sample videos from a trained model."""

    output: str | None = None
    """Name to publish under: samples/OUTPUT; by default the model's."""

    NOT_RECIPE: ClassVar[frozenset[str]] = Sampling.NOT_RECIPE | {"output"}

    classes: str = "all"
    """Classes to sample, separated by commas, or all."""
    num_per_class: int = 4
    """Videos of each class."""
    fps: float = 16.0
    """Frame rate to ask the model for and to write."""

    def check(self) -> None:
        super().check()
        if self.num_per_class < 1:
            raise UserError("--num-per-class must be at least 1")
        if not 0 < self.fps < math.inf:
            raise UserError("--fps must be above 0")
