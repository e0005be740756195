"""Metrics from statistics, each with its interval and a name that contains its detector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipelines.evaluation.inputs import Inputs
from pipelines.evaluation.protocols import Protocol
from pipelines.evaluation.real_clips import RealClips
from pipelines.evaluation.settings import RECONSTRUCTION
from pipelines.evaluation.statistics import Statistics, frechet, kernel
from vqvdm.errors import UserError

NEAREST_ROWS = 256
"""Videos of a set for which the nearest training clips are searched."""


@dataclass
class Sets:
    """The sets of videos that are compared."""

    real: Statistics
    floor: Statistics
    """Other real clips, as many if there are enough: the distance of real clips from real clips."""
    reconstructed: Statistics
    samples: list[Statistics]
    """One for each repeat."""


@dataclass(frozen=True)
class Estimate:
    """A metric over repeats: mean, and half the width of its 95 % interval."""

    mean: float
    interval: float | None
    """None for a single repeat, which gives no interval."""
    repeats: int


def estimate(values: list[float]) -> Estimate:
    """Mean of independent repeats with Student's 95 % confidence interval."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return Estimate(mean, None, count)
    spread = float(np.std(values, ddof=1)) / count**0.5
    return Estimate(mean, spread * float(stats.t.ppf(0.975, count - 1)), count)


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
    """FVD, KVD and rFVD by the detector `by`, with the floor of real against real."""

    def measure(metric: str, distance: Callable[[Statistics, Statistics], float]) -> None:
        name = named(metric, by)
        metrics.values[name] = estimate([distance(sets.real, each) for each in sets.samples])
        try:
            metrics.one(f"floor/{name}", distance(sets.real, sets.floor))
        except (UserError, AssertionError):
            few = f"only {sets.floor.count} other real clips are left to compare with"
            metrics.not_measured[f"floor/{name}"] = few

    def fvd(a: Statistics, b: Statistics) -> float:
        return frechet(a, b, protocol.ddof)

    if "fvd" in wanted:
        metrics.attempt("fvd", lambda: measure("fvd", fvd))
    if "kvd" in wanted:
        metrics.attempt("kvd", lambda: measure("kvd", _kernel))
    if "rfvd" in wanted:
        metrics.attempt(
            "rfvd", lambda: metrics.one(named("rfvd", by), fvd(sets.real, sets.reconstructed))
        )


def _kernel(a: Statistics, b: Statistics) -> float:
    if min(len(a.rows), len(b.rows)) < 2:
        raise UserError("a kernel distance needs at least 2 clips a side; add videos")
    return kernel(a, b)


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


@dataclass(frozen=True)
class Nearest:
    """For every video of a set, the nearest training clip."""

    index_N: NDArray[np.int64]
    distance_N: NDArray[np.float64]


def nearest(features_ND: NDArray, train_MD: NDArray) -> Nearest:
    """Nearest rows of `train_MD` by Euclidean distance of features."""
    a, b = features_ND.astype(np.float64), train_MD.astype(np.float64)
    squares_NM = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    index_N = squares_NM.argmin(1)
    best_N = squares_NM[np.arange(len(a)), index_N].clip(0)
    return Nearest(index_N, np.sqrt(best_N))


def memorisation(metrics: Metrics, sets: Sets, train_MD: NDArray | None, held_out: bool) -> None:
    """Distances of samples to their nearest training clips, and those of held-out real clips.

    A ratio far below 1 means samples lie nearer to training clips than new videos do.
    """
    if train_MD is None or not len(train_MD) or not sets.samples[0].rows:
        return
    near = nearest(sets.samples[0].rows_ND[:NEAREST_ROWS], train_MD).distance_N
    metrics.one("nearest/samples", float(np.median(near)))
    if held_out and sets.real.rows:
        new = nearest(sets.real.rows_ND[:NEAREST_ROWS], train_MD).distance_N
        metrics.one("nearest/held_out", float(np.median(new)))
        if np.median(new) > 0:
            metrics.one("nearest/ratio", float(np.median(near) / np.median(new)))


def refuse_early(metrics: Metrics, inputs: Inputs, real: RealClips) -> None:
    """Refuse metrics that cannot be measured, before hours of sampling."""
    config, chosen = inputs.config, inputs.config.chosen
    classes = inputs.bundle["classes"]
    missing = [name for i, name in enumerate(classes) if i not in set(real.class_index_N.tolist())]
    if missing:
        reason = (
            f"class {missing[0]!r} is missing from the {len(real.refs)} real clips "
            f"({chosen.real_split}): raise --num-real, or take another --real-split"
        )
        for metric in {"fvd", "kvd"} & set(config.wanted):
            metrics.refuse(metric, reason)
    if real.statistics.gaussian is not None:
        width = len(real.statistics.gaussian.mean_D)
        fewest = min(len(real.refs), chosen.num_samples)
        if fewest <= width:
            reason = (
                f"{fewest} clips are too few for the covariance of {width} features: at least "
                f"{width + 1} real clips and samples are needed"
            )
            for metric in {"fvd", "rfvd"} & set(config.wanted):
                metrics.refuse(metric, reason)
        elif not real.statistics.gaussian.scatter_DD.any():
            reason = (
                f"all {len(real.refs)} real clips have the same features: is the detector "
                f"{config.detector} the right one?"
            )
            for metric in {"fvd", "kvd", "rfvd"} & set(config.wanted):
                metrics.refuse(metric, reason)
    if inputs.in_pixels:
        for metric in RECONSTRUCTION & set(config.wanted):
            metrics.refuse(metric, "the model works on pixels: nothing is reconstructed")
    if not inputs.classifier and "is" in config.wanted:
        reason = f"{config.detector} gives no class probabilities: pass --classifier"
        metrics.not_measured["is"] = reason
