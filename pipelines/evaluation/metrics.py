"""Metrics from statistics, each with its interval and a name that contains its detector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.estimates import Estimate, distance_estimate, estimate
from pipelines.evaluation.inputs import Inputs
from pipelines.evaluation.protocols import Protocol
from pipelines.evaluation.real_clips import RealClips
from pipelines.evaluation.settings import RECONSTRUCTION
from pipelines.evaluation.statistics import Statistics
from vqvdm.errors import UserError
from vqvdm.metrics import kernel_distance
from vqvdm.metrics.frechet import (
    GaussianStatistics,
    frechet_distance_at_infinity,
    frechet_distance_from_statistics,
    merged,
)


@dataclass
class Sets:
    """The sets of videos that are compared."""

    real: Statistics
    floor: Statistics
    """Other real clips in the proportions of the real ones, as many if there are enough: the
    distance of real clips from real clips."""
    reconstructed: Statistics
    samples: list[Statistics]
    """One for each repeat."""
    told: int = 0
    """Samples that were told a caption, of all repeats."""
    only_at: list[float] | None = None
    """As in `RealClips`."""


@dataclass
class Metrics:
    """What was measured, and why the rest was not."""

    strict: bool
    """Whether a metric that cannot be measured is an error, since it was requested by name."""
    values: dict[str, Estimate] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)

    def one(self, name: str, value: float | None) -> None:
        if value is not None:
            self.values[name] = Estimate(value, None, 1)

    def attempt(self, metric: str, measure: Callable[[], None]) -> None:
        """Measure, or record why that is impossible; `UserError` if `strict`."""
        try:
            measure()
        except UserError as error:
            self.refuse(metric, str(error))

    def refuse(self, metric: str, reason: str) -> None:
        if self.strict:
            raise UserError(f"{metric}: {reason}")
        self.not_measured[metric] = reason

    @property
    def flat(self) -> dict[str, float]:
        """Names to means, as MLflow takes them; half-widths end in `_ci95`."""
        flat = {name: each.mean for name, each in self.values.items()}
        return flat | {
            f"{name}_ci95": each.interval
            for name, each in self.values.items()
            if each.interval is not None
        }


def named(metric: str, detector: str) -> str:
    """A metric's name, followed by its detector unless that is the published one."""
    published = "c3d" if metric == "is" else "i3d"
    return metric if detector == published else f"{metric}_{detector}"


def distances(metrics: Metrics, wanted: Sequence[str], sets: Sets, protocol: Protocol, by: str):
    """FVD, KVD and rFVD by the detector `by`, with the floor of real against real, and FVD's limit
    for infinitely many clips."""
    ddof = protocol.ddof

    def fvd(a: Sequence[GaussianStatistics], b: Sequence[GaussianStatistics]) -> float:
        return frechet_distance_from_statistics(merged(a), merged(b), ddof)

    def fvd_at_infinity(a: Sequence[GaussianStatistics], b: Sequence[GaussianStatistics]) -> float:
        return frechet_distance_at_infinity(a, b, ddof)

    def measure_fvd() -> None:
        for each in (sets.real, *sets.samples):
            each.require_full_rank()
        name = named("fvd", by)
        parts = [each.gaussian_parts for each in sets.samples]
        metrics.values[name] = distance_estimate(fvd, sets.real.gaussian_parts, parts)
        if min(each.parts for each in (sets.real, *sets.samples)) > 1:
            metrics.values[f"infinity/{name}"] = distance_estimate(
                fvd_at_infinity, sets.real.gaussian_parts, parts
            )
        if _floor_is_there(metrics, sets, name):
            floor = [sets.floor.gaussian_parts]
            metrics.values[f"floor/{name}"] = distance_estimate(
                fvd, sets.real.gaussian_parts, floor
            )

    def measure_kvd() -> None:
        if min(len(each.rows) for each in (sets.real, *sets.samples)) < 2:
            raise UserError("a kernel distance needs at least 2 clips a side; add videos")
        name = named("kvd", by)
        parts = [each.row_parts for each in sets.samples]
        metrics.values[name] = distance_estimate(_kernel, sets.real.row_parts, parts)
        if _floor_is_there(metrics, sets, name):
            floor = [sets.floor.row_parts]
            metrics.values[f"floor/{name}"] = distance_estimate(_kernel, sets.real.row_parts, floor)

    def measure_rfvd() -> None:
        sets.reconstructed.require_full_rank()
        made = sets.reconstructed.gaussian_parts
        metrics.one(named("rfvd", by), fvd(sets.real.gaussian_parts, made))

    for metric, measure in (("fvd", measure_fvd), ("kvd", measure_kvd), ("rfvd", measure_rfvd)):
        if metric in wanted:
            metrics.attempt(metric, measure)


def _floor_is_there(metrics: Metrics, sets: Sets, name: str) -> bool:
    """Whether enough other real clips are left; records it if not."""
    try:
        if sets.floor.count < 2:
            raise UserError("too few")
        if name.startswith("fvd"):
            sets.floor.require_full_rank()
    except UserError:
        few = f"only {sets.floor.count} other real clips of the same proportions are left"
        metrics.not_measured[f"floor/{name}"] = few
        return False
    return True


def _kernel(a: Sequence[NDArray], b: Sequence[NDArray]) -> float:
    return kernel_distance(np.concatenate(a), np.concatenate(b))


def scores(metrics: Metrics, sets: Sets, by: str) -> None:
    """Inception score of samples, and of real clips as a reference."""

    def measure() -> None:
        found = [each.score() for each in sets.samples]
        name = named("is", by)
        metrics.values[name] = estimate([score for score, _ in found])
        if sets.samples[0].splits > 1:
            metrics.one(f"{name}_split_std", found[0][1])
        metrics.one(f"real/{name}", sets.real.score()[0])

    metrics.attempt("is", measure)


def scalars(metrics: Metrics, wanted: Sequence[str], sets: Sets) -> None:
    """Means over videos: pixel errors, accuracy and motion."""
    for name in ("psnr", "ssim", "lpips"):
        if name in wanted:
            metrics.one(name, sets.reconstructed.mean(name))
    pairs = {"clip_right": "clip_accuracy", "frames_right": "frame_accuracy"}
    for prefix, group in (("real", [sets.real]), ("samples", sets.samples)):
        for name, shown in pairs.items():
            means = [mean for each in group if (mean := each.mean(name)) is not None]
            if means:
                metrics.values[f"{prefix}/{shown}"] = estimate(means)
        if "motion" in wanted:
            _motion(metrics, prefix, group[0])


def _motion(metrics: Metrics, prefix: str, videos: Statistics) -> None:
    """Mean displacement in pixels a frame at each rate, and its ratio of lowest to highest rate."""
    rates = videos.rates
    means = [videos.mean("displacement", rate) or 0.0 for rate in rates]
    for rate, mean in zip(rates, means, strict=True):
        metrics.one(f"{prefix}/displacement_at_{rate:g}fps", mean)
    if len(rates) > 1:
        metrics.one(f"{prefix}/displacement_ratio", means[0] / max(means[-1], 1e-9))


def refuse_too_few(metrics: Metrics, inputs: Inputs, real_clips: int, width: int) -> None:
    """Refuse distances of covariances of `width` features, before any is extracted."""
    chosen, needed = inputs.config.chosen, width + 1
    cures = []
    if real_clips < needed and chosen.real_split != "all":
        cures.append("--real-split all takes those of training too")
    if real_clips < needed:
        cures.append("more videos, or a smaller --stride of shard_videos, make more clips")
    if chosen.num_samples < needed:
        cures.append(f"pass --num-samples {needed} or more")
    if not cures:
        return
    reason = (
        f"{real_clips} real clips and {chosen.num_samples} samples are too few for the covariance "
        f"of {width} features, which takes {needed} of each: {'; '.join(cures)}"
    )
    for metric in sorted({"fvd", "rfvd"} & set(inputs.config.wanted)):
        metrics.refuse(metric, reason)


def refuse_early(metrics: Metrics, inputs: Inputs, real: RealClips) -> None:
    """Refuse metrics that cannot be measured, before hours of sampling."""
    config, chosen = inputs.config, inputs.config.chosen
    classes = inputs.bundle["classes"]
    missing = [name for i, name in enumerate(classes) if i not in set(real.class_index_N.tolist())]
    if missing:
        reason = (
            f"class {missing[0]!r} is missing from the {len(real.refs)} real clips "
            f"({chosen.real_split}{f', --fps {config.fps}' if config.rates else ''}): raise "
            "--num-real, or take another --real-split"
        )
        for metric in {"fvd", "kvd"} & set(config.wanted):
            metrics.refuse(metric, reason)
    gaussian = real.statistics.gaussian
    if gaussian is not None and len(real.refs) > 1 and not gaussian.scatter_DD.any():
        reason = (
            f"all {len(real.refs)} real clips have the same features: is the detector "
            f"{config.detector} the right one?"
        )
        for metric in {"fvd", "kvd", "rfvd"} & set(config.wanted):
            metrics.refuse(metric, reason)
    if "motion" in config.wanted and not inputs.shows_digits:
        reason = "displacement is that of the demo's digits, one bright object each"
        metrics.refuse("motion", reason)
    if inputs.in_pixels:
        for metric in RECONSTRUCTION & set(config.wanted):
            metrics.refuse(metric, "the model works on pixels: nothing is reconstructed")
    if not inputs.classifier and "is" in config.wanted:
        reason = f"{config.detector} gives no class probabilities: pass --classifier"
        metrics.not_measured["is"] = reason
