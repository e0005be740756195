"""Settings of `train_vqgan`, `train_ldm` and `distill_ldm`."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Self

from pipelines.cluster.request import Request
from pipelines.settings import Augment, DeviceJob, Switch
from vqvdm.diffusion import unet
from vqvdm.diffusion.average_velocity import refuse_steps
from vqvdm.diffusion.denoiser import DenoiserConfig, DenoiserName
from vqvdm.diffusion.dit import DiTConfig
from vqvdm.diffusion.known_latents import ConditioningConfig
from vqvdm.diffusion.lora import LoRAConfig
from vqvdm.diffusion.objectives import ObjectiveConfig
from vqvdm.diffusion.samplers import SamplingOptions
from vqvdm.diffusion.unet import UNetConfig
from vqvdm.errors import UserError
from vqvdm.inference import Precision
from vqvdm.ranges import Count, CountFrom0, NotNegative, Positive, Range, Seed, Share
from vqvdm.tokenizer.base import TokenizerConfig
from vqvdm.tokenizer.discriminator import DiscriminatorConfig, refuse_small
from vqvdm.tokenizer.inflated import InflatedConfig
from vqvdm.tokenizer.losses import LossConfig
from vqvdm.tokenizer.vqgan import VQGANConfig

PIXEL_SPACE = "none"
"""The value of `--vqgan` to train without one."""


@dataclass(frozen=True)
class TrainJob(DeviceJob):
    """Settings of every training."""

    cpu_workers: Count = 1
    """Workers where there are no GPUs; with GPUs, there is one for each. --num-workers is for
    both."""
    min_workers: Count | None = None
    """Begin as soon as there is room for this many workers, and continue with more, up to
    --num-workers, or with fewer, as nodes come and go; by default, all are waited for."""
    steps: Annotated[int, Range(1, zero="to leave them to the clips")] = 1000
    """Optimiser steps; 0 leaves them to the number of clips. A training may be run again with more:
    it resumes from its newest checkpoint, by the schedule of the new length."""
    epochs: Positive = 100.0
    """Passes over the clips, from which steps are derived where --steps is 0."""
    steps_between: tuple[Count, Count] = (1_000, 1_000_000)
    """Lower and upper bound on the steps derived from --epochs."""
    batch_size: Count = 8
    """Clips a step, over all workers."""
    accumulate: Count = 1
    """Gradient accumulation: micro-batches per worker and step; same result, less memory."""
    activation_checkpointing: bool = False
    """Recompute the activations of each block in the backward pass: a fraction of the memory, a
    third more arithmetic, the same step."""
    lr: Positive = 1e-3
    """Highest learning rate; warmed up, then lowered along a half cosine."""
    warmup: CountFrom0 = 50
    """Steps of linear warm-up."""
    weight_decay: NotNegative = 1e-4
    grad_clip: NotNegative = 1.0
    """Largest norm of the gradient; 0 clips none."""
    ema_decay: Annotated[float, Range(0, 1, open_above=True)] = 0.995
    """Decay of the average of the weights that is published."""
    precision: Precision = "auto"
    """Arithmetic of the network: auto is bf16 where the device is fast at it, fp16, with scaled
    losses, on GPUs that are fast at that alone (V100, T4), else fp32."""
    compile: Switch = "auto"
    """`torch.compile` of the nets; auto is on with a GPU."""
    channels_last: Switch = "auto"
    """Channels innermost in memory, for faster convolutions; auto is on."""
    init_from: str | None = None
    """Begin with the weights of another model, as far as they fit: folder or URI of what this job
    published, also with other classes or sizes, or of a checkpoint."""
    seed: Seed = 0
    log_every: Count = 20
    """Steps between two lines of the log."""
    validate_every: Count = 200
    """Steps between two validations."""
    checkpoint_every: Count = 200
    """Steps between two checkpoints."""
    keep: Count = 2
    """Newest checkpoints kept."""
    log_keys: bool = False
    """Record which samples every step consumed, under NAME/keys."""
    cache_gb: Positive | None = None
    """Disk of each node for copies of remote shards, including those read ahead; its workers share
    them. By default half of what is free in the temporary folder."""
    memory_gb: NotNegative | None = None
    """Memory of each node for latents: if all of them fit, they are loaded once, for all of its
    workers; by default half of what there is, and 0 is never."""
    loader_threads: Count | None = None
    """Threads of each worker that read and decode ahead; by default its share of the cores, at
    least 2."""
    pin_memory: Switch = "auto"
    """Pinned memory, from which a GPU copies asynchronously; auto is on with a GPU."""

    NOT_RECIPE: ClassVar[frozenset[str]] = DeviceJob.NOT_RECIPE | {
        "cpu_workers",
        "min_workers",
        "name",
        "epochs",  # What they come to is in the steps.
        "steps_between",
        "init_from",  # Its fingerprint is among the inputs.
        "accumulate",
        "activation_checkpointing",
        "compile",
        "channels_last",
        "log_every",
        "validate_every",
        "checkpoint_every",
        "keep",
        "log_keys",
        "cache_gb",
        "memory_gb",
        "loader_threads",
        "pin_memory",
    }

    @property
    def slower_from(self) -> float:
        """Share of the steps after which a step does more than before; 1 if none does."""
        return 1.0

    def check(self) -> None:
        super().check()
        least, most = self.steps_between
        if least > most:
            raise UserError("--steps-between: give two numbers, the smaller one first")
        if self.min_workers is not None and self.min_workers > (self.num_workers or 0):
            raise UserError(
                f"--min-workers {self.min_workers}: pass --num-workers at least as many"
            )
        if self.batch_size % self.accumulate or self.num_workers:
            self.check_share(self.num_workers or 1)

    def for_clips(self, count: int) -> Self:
        """The same with the number of steps that suits so many clips, unless it is set."""
        if self.steps:
            return self
        least, most = self.steps_between
        wanted = math.ceil(self.epochs * count / self.batch_size)
        resolved = copy.copy(self)  # `replace` would lose the preset's name
        object.__setattr__(resolved, "steps", max(least, min(most, wanted)))
        return resolved

    def check_share(self, workers: int) -> None:
        """`UserError` if a batch does not divide among workers."""
        parts = workers * self.accumulate
        if self.batch_size % parts:
            among = f"{workers} workers"
            if self.accumulate > 1:
                among += f" in {self.accumulate} parts each"
            near = max(1, round(self.batch_size / parts)) * parts
            raise UserError(
                f"--batch-size {self.batch_size} does not divide among {among}: "
                f"choose a multiple of {parts}, such as {near}"
            )

    def request(self) -> Request:
        """What is asked of the cluster: workers of which each has an equal share of a batch."""
        share = self.batch_size // self.accumulate
        return Request(
            self.device,
            self.num_workers,
            cpu_workers=self.cpu_workers,
            at_least=self.min_workers,
            share=share,
        )


@dataclass(frozen=True)
class TrainVQGAN(TrainJob):
    """Train the tokenizer: a 3D VQGAN, or one out of an image autoencoder, if --init-from names
    the folder of one (AutoencoderKL of diffusers)."""

    name: str = "base"
    """Name to publish under: vqgan/NAME."""
    model: VQGANConfig = VQGANConfig()
    group: Count | None = None
    """Frames that become one latent frame, of a tokenizer out of an image autoencoder; by default
    4, or as many as the tokenizer of --init-from has."""
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    loss: LossConfig = LossConfig()
    discriminator_lr: Positive = 2e-4
    """Highest learning rate of the discriminators."""
    discriminator_tied: bool = False
    """Warm up and lower the discriminators' rate along with the tokenizer's, in a fixed ratio; else
    it stays the highest."""
    augment: Augment = "none"
    """`mirror` trains on the mirror image of every other clip, drawn anew for each step. Not for
    videos in which left and right matter, such as writing."""
    perceptual: str | None = None
    """URI of a TorchScript file for a perceptual loss, such as LPIPS; may end in #sha256=HEX."""

    LATER: ClassVar[Mapping[str, Any]] = {
        "augment": "none",
        "discriminator.stride": 4,
        "discriminator_tied": False,
        "group": None,
    }

    def with_perceptual(self, text: str) -> Self:
        """The same with the file of the perceptual loss as `perceptual.resolved` gives it."""
        resolved = copy.copy(self)  # `replace` would lose the preset's name
        object.__setattr__(resolved, "perceptual", text)
        return resolved

    def recipe(self) -> dict[str, Any]:
        """The file of the perceptual loss is known by its sum, wherever it lies."""
        found = super().recipe()
        if self.perceptual:
            found["perceptual"] = self.perceptual.partition("#")[2] or self.perceptual
        return found

    @property
    def net(self) -> TokenizerConfig:
        """The shape of the net."""
        return self.model

    def inflating(self, shape: InflatedConfig | None) -> TrainVQGAN:
        """The same for a tokenizer out of an image autoencoder, where its shape is given; otherwise
        `UserError` for --group, which only such a one has."""
        if shape is None:
            if self.group:
                raise UserError(
                    f"--group {self.group} is for a tokenizer out of an image autoencoder: pass "
                    "the folder of one by --init-from, or leave it out"
                )
            return self
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        shape = replace(shape, group=self.group or shape.group)
        made = TrainInflated(**given, inflated=shape)
        object.__setattr__(made, "preset", self.preset)
        return made

    @property
    def slower_from(self) -> float:
        """The discriminators join then."""
        return min(1.0, self.loss.adversarial_start) if self.loss.adversarial else 1.0

    def check(self) -> None:
        super().check()
        if self.name == PIXEL_SPACE:
            raise UserError(f"--name {PIXEL_SPACE} stands for no VQGAN: choose another name")
        self.model.check()
        self.discriminator.check()

    def check_clips(self, frames: int, size: int) -> None:
        """`UserError` unless the nets, also those that join later, take clips of this size."""
        self.net.latent_shape(frames, size, size)
        if self.slower_from < 1:
            refuse_small(self.discriminator, frames, size, size)


@dataclass(frozen=True)
class TrainInflated(TrainVQGAN):
    """`TrainVQGAN` of a tokenizer out of an image autoencoder, which `model` does not shape."""

    inflated: InflatedConfig = InflatedConfig()

    @property
    def net(self) -> TokenizerConfig:
        return self.inflated

    def recipe(self) -> dict[str, Any]:
        found = super().recipe()
        for name in ("model", "group"):  # The shape has the group.
            found.pop(name, None)
        return found


@dataclass(frozen=True)
class TrainLDM(TrainJob):
    """Train the latent diffusion model and write a bundle that generates videos."""

    vqgan: str = "base"
    """Name of the VQGAN whose latents are used; `none` trains on pixels, as VDM does."""
    name: str = "base"
    """Name to publish under: ldm/NAME."""
    denoiser: DenoiserName = "unet"
    """The net: a U-Net, shaped by --model, or a transformer, shaped by --dit."""
    model: UNetConfig = UNetConfig()
    dit: DiTConfig = DiTConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    conditioning: ConditioningConfig = ConditioningConfig()
    lora: LoRAConfig = LoRAConfig()

    LATER: ClassVar[Mapping[str, Any]] = {
        "conditioning": asdict(ConditioningConfig()),
        "denoiser": "unet",
        "dit": asdict(DiTConfig()),
        **{f"model.{name}": value for name, value in unet.LATER.items()},
    }

    def recipe(self) -> dict[str, Any]:
        found = super().recipe()
        found.pop("dit" if self.denoiser == "unet" else "model", None)
        if not self.lora.rank:
            del found["lora"]
        return found

    @property
    def net(self) -> DenoiserConfig:
        """The shape of the net that is chosen."""
        return self.model if self.denoiser == "unet" else self.dit

    def check(self) -> None:
        super().check()
        self.net.check()
        self.objective.check()
        self.conditioning.check()
        self.lora.check()

    def check_frames(self, frames: int) -> None:
        """`UserError` unless latents have frames enough to be told some and to predict others."""
        if self.conditioning.share and frames < 2:
            raise UserError(
                f"--conditioning.share {self.conditioning.share}: latents of one frame leave "
                "nothing to predict; cut clips of more --frames"
            )


@dataclass(frozen=True)
class DistillLDM(TrainJob):
    """Distil a latent diffusion model into one that samples in 1, 2 or 4 steps, guidance built
    in."""

    ldm: str = "base"
    """Name of the teacher: a bundle of train_ldm, trained with the objective `flow`."""
    vqgan: str = "base"
    """Name of the VQGAN whose latents the teacher was trained on."""
    name: str = "fast"
    """Name to publish under: ldm/NAME."""
    guidance: NotNegative = 2.0
    """Weight of the teacher's classifier-free guidance, which the student has built in."""
    guidance_interval: tuple[Share, Share] = (0.0, 1.0)
    """Times from 0 (data) to 1 (noise) within which the teacher is guided."""
    class_dropout: Share = 0.1
    """Chance that a clip's class is dropped: the student samples without a class too. Of a model
    that takes captions, as --objective.class-dropout of its training."""
    intervals: Count = 4
    """Most steps that the student samples in, a power of two; all powers below are taught too."""
    teacher_steps: Count = 2
    """Steps of Heun's method that the teacher takes over the shortest intervals."""
    sampling_steps: Count = 4
    """Steps that the student is sampled in, unless others are asked for."""

    def check(self) -> None:
        super().check()
        SamplingOptions(guidance=self.guidance, guidance_interval=self.guidance_interval).check()
        if self.name == self.ldm:
            raise UserError(f"--name {self.name} is the teacher's: choose another name")
        if self.intervals < 2 or self.intervals & (self.intervals - 1):
            raise UserError(f"--intervals {self.intervals}: give a power of two, at least 2")
        refuse_steps(self.sampling_steps, self.intervals)
