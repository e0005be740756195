"""Settings of `evaluate` and `train_detector`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from pipelines.evaluation.protocols import PROTOCOLS, Protocol, ProtocolName
from pipelines.sampling.settings import Sampling
from pipelines.settings import DeviceJob, parse_rates
from vqvdm.errors import UserError
from vqvdm.ranges import Count, CountFrom0, Positive, Range, Seed

METRICS = (
    *("psnr", "ssim", "lpips", "rfvd", "fvd", "kvd", "is"),
    *("accuracy", "motion", "memorisation"),
)
RECONSTRUCTION = frozenset(("psnr", "ssim", "lpips", "rfvd"))
"""Metrics of the tokenizer."""
SWEPT = ("guidance", "interval", "steps")
"""Settings of sampling that a sweep compares."""


@dataclass(frozen=True)
class Evaluate(Sampling):
    """Measure a trained model against real clips, and write a report."""

    protocol: ProtocolName = "held-out"
    """held-out, published, tats or stylegan-v: counts, splits and draws that go together, each
    of which may be changed below; docs/evaluation.md explains them."""
    detector: str = "builtin"
    """Features for FVD, KVD and rFVD: builtin, i3d, a NAME of train_detector, or the URI of a
    TorchScript file, which may end in #sha256=HEX."""
    classifier: str | None = None
    """Class probabilities for the inception score: values as for --detector, or c3d; by default
    the detector, if it gives some."""
    lpips: str | None = None
    """URI of a TorchScript file that takes two batches of frames in [-1, 1] and gives LPIPS."""
    metrics: str = "all"
    """Metrics, separated by commas; all measures whatever the data and detectors allow."""
    num_samples: Count | None = None
    """Videos to sample in each repeat, in the proportions of the real clips; by default the
    protocol's."""
    num_real: Count | None = None
    """Real clips to compare with; by default as many as samples."""
    repeats: Count | None = None
    """Sets of samples, for means and confidence intervals; by default the protocol's."""
    real_split: str | None = None
    """train, val or all; by default the protocol's."""
    real_draw: str | None = None
    """videos (one clip of each) or clips; by default the protocol's."""
    num_train: CountFrom0 | None = None
    """Training clips that are searched for copies; by default all, 0 for none. A sample of them
    misses most copies."""
    detector_steps: Count = 400
    """Steps to train the classifier of single frames, for accuracy."""
    fps: str = "all"
    """Frame rates to compare at, separated by commas, to within a thousandth: real clips of other
    rates are left out; by default all."""
    sweep: str = ""
    """Compare values of guidance, interval and steps, of those named, separated by commas, by FVD
    on held-out clips instead: eval/NAME/sweep.json, no report."""

    NOT_RECIPE: ClassVar[frozenset[str]] = Sampling.NOT_RECIPE | {"sweep"}

    @property
    def chosen(self) -> Protocol:
        """The protocol with the changes of the settings."""
        changes = {
            name: value
            for name in ("num_samples", "repeats", "real_split", "real_draw")
            if (value := getattr(self, name)) is not None
        }
        return replace(PROTOCOLS[self.protocol], **changes)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The metrics requested by name; all of them by default."""
        if self.metrics == "all":
            return METRICS
        return tuple(dict.fromkeys(name.strip() for name in self.metrics.split(",")))

    @property
    def rates(self) -> list[float] | None:
        """The frame rates to compare at; None for all that real clips have."""
        return None if self.fps == "all" else parse_rates(self.fps, "all")

    @property
    def swept(self) -> tuple[str, ...]:
        """What is compared, by name."""
        return tuple(dict.fromkeys(name.strip() for name in self.sweep.split(",") if name.strip()))

    def check(self) -> None:
        super().check()
        _ = self.rates
        for name in self.swept:
            if name not in SWEPT:
                raise UserError(f"--sweep {name}: choose from {', '.join(SWEPT)}")
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
class TrainDetector(DeviceJob):
    """Train a detector on the labelled clips, for inception score and Fréchet distance."""

    name: str = "own"
    """Name to publish under: detectors/NAME."""
    steps: Count = 600
    """Optimiser steps."""
    batch_size: Count = 16
    """Clips a step."""
    lr: Positive = 2e-3
    """Highest learning rate."""
    size: Annotated[int, Range(16)] = 64
    """Height and width that clips are resized to."""
    seed: Seed = 0

    NOT_RECIPE: ClassVar[frozenset[str]] = DeviceJob.NOT_RECIPE | {"name"}
