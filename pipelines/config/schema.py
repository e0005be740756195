"""The settings of every job, as frozen dataclasses: what `--help` lists.

A *recipe* (model, data, optimiser, global batch) says what is made; the *scale* (workers,
threads) says on how much of a machine, and changes no result beyond floating-point order.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

from pipelines.config.protocols import PROTOCOLS, Protocol, ProtocolName
from pipelines.io import storage
from pipelines.io.clips import Filters, Limits
from pipelines.io.inputs import Selection
from pipelines.io.workspace import Workspace
from vqvdm.diffusion.objectives import ObjectiveConfig
from vqvdm.diffusion.samplers import SamplingOptions
from vqvdm.diffusion.unet import UNetConfig
from vqvdm.errors import UserError
from vqvdm.inference import Precision
from vqvdm.tokenizer.discriminator import DiscriminatorConfig
from vqvdm.tokenizer.losses import LossConfig
from vqvdm.tokenizer.vqgan import VQGANConfig

Switch = Literal["auto", "on", "off"]

PIXEL_SPACE = "none"
"""What `--vqgan` says to train without one."""


def parse_rates(text: str, word: str) -> list[float]:
    """Frame rates separated by commas, each once; `word` is what may be given instead."""
    try:
        rates = [float(rate) for rate in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < math.inf for rate in rates):
        raise UserError(f"--fps {text}: give {word}, or rates above 0 such as 8,16")
    return list(dict.fromkeys(rates))


@dataclass(frozen=True)
class Job:
    """What every job takes."""

    root: str = "runs/demo"
    """Directory or fsspec URI under which everything is published."""
    num_workers: int | None = None
    """Parallel workers; by default as many as suit the cluster."""
    overwrite: bool = False
    """Replace what other settings published in the same place."""
    dry_run: bool = False
    """Print the resolved settings and the plan; write nothing."""

    preset: ClassVar[str] = "demo"
    """Name of the preset, for the record; set by the command line, and no setting of its own."""

    NOT_RECIPE: ClassVar[frozenset[str]] = frozenset(
        ("root", "num_workers", "overwrite", "dry_run")
    )

    @property
    def workspace(self) -> Workspace:
        return Workspace(storage.absolute(self.root))

    def recipe(self) -> dict[str, Any]:
        """The settings that decide the result, as plain JSON values."""
        return {k: v for k, v in asdict(self).items() if k not in self.NOT_RECIPE}


@dataclass(frozen=True)
class VideosJob(Job):
    """What jobs that touch the source videos take besides."""

    videos: str | None = None
    """Folder or URI of videos; by default ROOT/videos."""

    @property
    def videos_uri(self) -> str:
        return storage.absolute(self.videos) if self.videos else self.workspace.videos


@dataclass(frozen=True)
class DemoVideos(VideosJob):
    """Write videos of handwritten digits in motion, one folder a class."""

    count: int = 640
    """Videos, one a handwritten digit; a tenth of them in each class."""
    size: int = 128
    """Height and width in pixels."""
    fps: float = 16.0
    """Frames a second."""
    duration_s: float = 4.0
    """Length of a video."""
    speed_px_s: float = 32.0
    """Speed of the digits in pixels a second."""
    seed: int = 0


@dataclass(frozen=True)
class ShardVideos(VideosJob):
    """Cut videos into fixed-length clips, packed in WebDataset shards."""

    labels: str = "folder"
    """`folder` (the first folder below --videos), `none`, or a CSV, JSON-lines or Parquet file
    with columns path and label, and maybe split, start_s, end_s, fps."""
    frames: int = 16
    """Frames a clip."""
    size: int = 128
    """Height and width: the short side is resized to it and the centre square cut out."""
    stride: int | None = None
    """Frames between the starts of two clips, at the clip's rate; by default --frames."""
    fps: str = "native"
    """`native`, or one or more rates: 8,16 cuts every video at both."""
    frames_fps: float | None = None
    """Take every folder of images for a video at this rate."""
    scenes: Literal["none", "detect"] = "none"
    """`detect` finds hard cuts, and no clip straddles one."""
    crop_bars: bool = False
    """Cut letterbox bars off first."""
    splits: Literal["random", "folders"] = "random"
    """`folders`: the first folder below --videos names the split, such as train or sky_test;
    labels are those below it. `random`: see --val-fraction and --val-list."""
    val_fraction: float = 0.1
    """Share of the videos kept for validation."""
    val_list: str | None = None
    """File of video paths kept for validation instead, one a line; looked for as given, then
    below --videos, then beside it. `none` for no list."""
    group_by: str = r"_g\d+_"
    """Videos whose paths agree up to the end of what this regular expression finds go into the
    same split."""
    limits: Limits = Limits()
    filters: Filters = Filters()
    timeout_s: float = 120.0
    """Seconds that a video may take for each minute it lasts; then decoding is ended."""
    max_memory_gb: float = 2.0
    """Address space of the process that decodes; a video that wants more is rejected."""
    retry_failed: bool = False
    """Try videos that failed again."""
    strict: bool = False
    """Exit with status 1 if any video failed, wholly or in part."""
    limit: int | None = None
    """Take only so many videos, evenly spread over the listing."""
    videos_per_shard: int = 64
    """About how many videos share a shard."""

    NOT_RECIPE: ClassVar[frozenset[str]] = Job.NOT_RECIPE | {
        "videos",
        "retry_failed",
        "strict",
        "timeout_s",
        "max_memory_gb",
    }

    @property
    def selection(self) -> Selection:
        """How labels and splits are found."""
        return Selection(
            self.labels,
            self.splits,
            self.val_fraction,
            self.val_list,
            self.group_by,
            self.frames_fps,
        )

    @property
    def rates(self) -> list[float | None]:
        """Frame rates to cut at; None stands for the video's own."""
        return [None] if self.fps == "native" else list(parse_rates(self.fps, "native"))

    def check(self) -> None:
        for name in ("frames", "size", "videos_per_shard"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1")
        if self.size % 2:
            raise UserError(f"--size {self.size} is odd: video codecs want an even number")
        for name in ("stride", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} must be at least 1")
        if not 0 <= self.val_fraction < 1:
            raise UserError("--val-fraction must lie in [0, 1)")
        for name in ("frames_fps", "timeout_s", "max_memory_gb"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"--{name.replace('_', '-')} must be above 0")
        for group in ("limits", "filters"):
            for name, value in asdict(getattr(self, group)).items():
                least = 0 if group == "filters" else 1
                if not least <= value < math.inf:
                    flag = f"--{group}.{name.replace('_', '-')}"
                    raise UserError(f"{flag} must be at least {least}")
        if self.splits == "folders" and self.val_list not in (None, "none"):
            raise UserError("--splits folders names the split: drop --val-list, or pass random")
        try:
            re.compile(self.group_by)
        except re.error as error:
            raise UserError(f"--group-by {self.group_by}: no regular expression: {error}") from None
        _ = self.rates


@dataclass(frozen=True)
class TrainJob(Job):
    """What both trainings take."""

    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 8
    """Clips a step, over all workers."""
    accumulate: int = 1
    """Parts that a worker's share of a step is computed in, one after the other: less memory,
    the same step."""
    lr: float = 1e-3
    """Highest learning rate; warmed up, then lowered along a half cosine."""
    warmup: int = 50
    """Steps of linear warm-up."""
    weight_decay: float = 1e-4
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.995
    """Decay of the average of the weights that is published."""
    precision: Precision = "auto"
    """Arithmetic of the network: bf16 where the device is fast at it."""
    compile: Switch = "auto"
    """`torch.compile` of the nets; auto is on with a GPU."""
    channels_last: Switch = "auto"
    """Channels innermost in memory, which convolutions are faster with; auto is on."""
    seed: int = 0
    log_every: int = 20
    """Steps between two lines of the log."""
    validate_every: int = 200
    """Steps between two validations."""
    checkpoint_every: int = 200
    """Steps between two checkpoints."""
    keep: int = 2
    """Newest checkpoints kept."""
    log_keys: bool = False
    """Write down which samples every step consumed, under NAME/keys."""
    cache_gb: float = 8.0
    """Disk for copies of remote shards, each worker's; reading ahead stays within it."""
    loader_threads: int | None = None
    """Threads of each worker that read and decode ahead; by default its share of the cores, at
    least 2."""
    pin_memory: Switch = "auto"
    """Read into memory that a GPU copies from by itself; auto is on with a GPU, the only use."""

    NOT_RECIPE: ClassVar[frozenset[str]] = Job.NOT_RECIPE | {
        "name",
        "accumulate",
        "compile",
        "channels_last",
        "log_every",
        "keep",
        "log_keys",
        "cache_gb",
        "loader_threads",
        "pin_memory",
    }

    def check(self) -> None:
        counts = ("steps", "batch_size", "accumulate", "log_every", "validate_every")
        for name in (*counts, "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1")
        if not self.cache_gb > 0:
            raise UserError("--cache-gb must be above 0")
        if self.loader_threads is not None and self.loader_threads < 1:
            raise UserError("--loader-threads must be at least 1")
        parts = self.workers * self.accumulate
        if self.batch_size % parts:
            among = f"{self.workers} workers"
            if self.accumulate > 1:
                among += f" in {self.accumulate} parts each"
            near = max(1, round(self.batch_size / parts)) * parts
            raise UserError(
                f"--batch-size {self.batch_size} does not divide among {among}: "
                f"choose a multiple of {parts}, such as {near}"
            )

    @property
    def workers(self) -> int:
        return self.num_workers or 1


@dataclass(frozen=True)
class TrainVQGAN(TrainJob):
    """Train the tokenizer: a 3D VQGAN."""

    name: str = "base"
    """Name to publish under: vqgan/NAME."""
    model: VQGANConfig = VQGANConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    loss: LossConfig = LossConfig()
    discriminator_lr: float = 2e-4
    perceptual: str | None = None
    """URI of a TorchScript file for a perceptual loss, such as LPIPS; may end in #sha256=HEX."""

    def check(self) -> None:
        super().check()
        if self.name == PIXEL_SPACE:
            raise UserError(f"--name {PIXEL_SPACE} stands for no VQGAN: choose another name")
        self.model.check()


@dataclass(frozen=True)
class EncodeLatents(Job):
    """Encode every clip with a trained VQGAN and cache the latents."""

    vqgan: str = "base"
    """Name of the VQGAN."""
    batch_size: int = 16
    """Clips encoded at once."""
    precision: Precision = "auto"
    """Arithmetic of the encoder."""
    audit: bool = False
    """Encode nothing new: check the cached latents, and encode a sample again to compare."""
    audit_clips: int = 64
    """Clips that --audit encodes again, spread evenly over the shards."""
    audit_tolerance: float = 0.05
    """Difference that --audit lets pass, in standard deviations of a latent channel: far above
    what other hardware makes of the same weights, far below another latent."""

    NOT_RECIPE: ClassVar[frozenset[str]] = Job.NOT_RECIPE | {
        "audit",
        "audit_clips",
        "audit_tolerance",
    }

    def check(self) -> None:
        for name in ("batch_size", "audit_clips"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1")
        if not self.audit_tolerance >= 0:
            raise UserError("--audit-tolerance must be at least 0")


@dataclass(frozen=True)
class TrainLDM(TrainJob):
    """Train the latent diffusion model and write a bundle that generates videos."""

    vqgan: str = "base"
    """Name of the VQGAN whose latents are used; `none` trains on pixels, as VDM does."""
    name: str = "base"
    """Name to publish under: ldm/NAME."""
    model: UNetConfig = UNetConfig()
    objective: ObjectiveConfig = ObjectiveConfig()

    def check(self) -> None:
        super().check()
        self.objective.check()


@dataclass(frozen=True)
class Sampling(Job):
    """How videos are sampled."""

    ldm: str = "base"
    """Name of the model."""
    steps: int = 20
    """Sampling steps."""
    sampler: str | None = None
    """heun, euler or dpm for a flow; ddpm, ddim or dpm otherwise; by default the model's best."""
    guidance: float = 2.0
    """Weight of classifier-free guidance; 1 is none."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Times from 0 (data) to 1 (noise) within which guidance is applied."""
    batch_size: int = 20
    """Videos made at once by a worker."""
    seed: int = 0

    def check(self) -> None:
        self.options.check()

    @property
    def options(self) -> SamplingOptions:
        return SamplingOptions(self.steps, self.guidance, self.sampler, self.guidance_interval)


@dataclass(frozen=True)
class Sample(Sampling):
    """Sample videos from a trained model."""

    output: str | None = None
    """Name to publish under: samples/OUTPUT; by default the model's."""

    NOT_RECIPE: ClassVar[frozenset[str]] = Job.NOT_RECIPE | {"output"}

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


METRICS = ("psnr", "ssim", "lpips", "rfvd", "fvd", "kvd", "is", "accuracy", "motion")


@dataclass(frozen=True)
class Evaluate(Sampling):
    """Measure a trained model against real clips, and write a report."""

    protocol: ProtocolName = "held-out"
    """held-out, published, tats or stylegan-v: counts, splits and draws that go together, each
    of which may be changed below; docs/evaluation.md tells them apart."""
    detector: str = "builtin"
    """Features for FVD, KVD and rFVD: builtin, i3d, a NAME of train_detector, or the URI of a
    TorchScript file, which may end in #sha256=HEX."""
    classifier: str | None = None
    """Class probabilities for the inception score, as --detector, or c3d; by default the
    detector's, where it has some."""
    lpips: str | None = None
    """URI of a TorchScript file that takes two batches of frames in [-1, 1] and gives LPIPS."""
    metrics: str = "all"
    """What to measure, separated by commas; all is whatever the data and detectors allow."""
    num_samples: int | None = None
    """Videos to sample a repeat, in the proportions of the real clips; by default the
    protocol's."""
    num_real: int | None = None
    """Real clips to compare with; by default as many."""
    repeats: int | None = None
    """Sets of samples, for means and confidence intervals; by default the protocol's."""
    real_split: str | None = None
    """train, val or all; by default the protocol's."""
    real_draw: str | None = None
    """videos (one clip of each) or clips; by default the protocol's."""
    num_train: int = 512
    """Training clips among which the nearest to a sample are looked for; 0 for none."""
    detector_steps: int = 400
    """Steps to train the classifier of single frames, for accuracy."""
    fps: str = "all"
    """Frame rates to compare at, separated by commas; by default those of the real clips."""

    @property
    def chosen(self) -> Protocol:
        """The protocol with what the settings change in it."""
        changes = {
            name: value
            for name in ("num_samples", "repeats", "real_split", "real_draw")
            if (value := getattr(self, name)) is not None
        }
        return replace(PROTOCOLS[self.protocol], **changes)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The metrics asked for by name; all of them if none is."""
        if self.metrics == "all":
            return METRICS
        return tuple(dict.fromkeys(name.strip() for name in self.metrics.split(",")))

    def check(self) -> None:
        super().check()
        for name in ("num_samples", "num_real", "repeats", "detector_steps", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1")
        if self.num_train < 0:
            raise UserError("--num-train must be 0 or more")
        for name in self.wanted:
            if name not in METRICS:
                raise UserError(f"unknown metric {name!r}: choose from {', '.join(METRICS)}")
        if self.chosen.real_split not in ("train", "val", "all"):
            raise UserError(f"--real-split {self.real_split}: choose train, val or all")
        if self.chosen.real_draw not in ("videos", "clips"):
            raise UserError(f"--real-draw {self.real_draw}: choose videos or clips")
        if "lpips" in self.wanted and self.metrics != "all" and not self.lpips:
            raise UserError("lpips needs its weights: pass --lpips URI (docs/evaluation.md)")


@dataclass(frozen=True)
class TrainDetector(Job):
    """Train a detector on the labelled clips, for inception score and Fréchet distance."""

    name: str = "own"
    """Name to publish under: detectors/NAME."""
    steps: int = 600
    """Optimiser steps."""
    batch_size: int = 16
    """Clips a step."""
    lr: float = 2e-3
    """Highest learning rate."""
    size: int = 64
    """Height and width that clips are resized to."""
    seed: int = 0

    NOT_RECIPE: ClassVar[frozenset[str]] = Job.NOT_RECIPE | {"name"}

    def check(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1")
        if self.size < 16:
            raise UserError("--size must be at least 16")
