"""From summaries to figures, each with its interval and a name that says its detector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.config.protocols import Protocol
from pipelines.evaluation.summary import Estimate, Summary, estimate, frechet, kernel
from vqvdm.errors import UserError

RECONSTRUCTION = frozenset(("psnr", "ssim", "lpips", "rfvd"))
"""Metrics of the tokenizer."""
NEAREST_ROWS = 256
"""Videos of a set whose nearest training clips are looked for."""


@dataclass
class Sets:
    """The sets of videos that were watched."""

    real: Summary
    floor: Summary
    """Other real clips, as many where there are enough: the distance of real from real."""
    reconstructed: Summary
    samples: list[Summary]
    """One a repeat."""


@dataclass
class Figures:
    """What was measured, and why the rest was not."""

    strict: bool
    """Whether what cannot be measured is an error: it was asked for by name."""
    values: dict[str, Estimate] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)

    def one(self, name: str, value: float | None) -> None:
        if value is not None:
            self.values[name] = Estimate(value, None, 1)

    def attempt(self, metric: str, measure: Callable[[], None]) -> None:
        """Measure, or note why that is impossible; `UserError` if `strict`."""
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
    """A metric's name: bare with the published detector, else it says which one it was."""
    published = "c3d" if metric == "is" else "i3d"
    return metric if detector == published else f"{metric}_{detector}"


def distances(figures: Figures, wanted: Sequence[str], sets: Sets, protocol: Protocol, by: str):
    """FVD, KVD and rFVD by the detector `by`, with the floor of real against real."""

    def measure(metric: str, distance: Callable[[Summary, Summary], float]) -> None:
        name = named(metric, by)
        figures.values[name] = estimate([distance(sets.real, each) for each in sets.samples])
        try:
            figures.one(f"floor/{name}", distance(sets.real, sets.floor))
        except (UserError, AssertionError):
            few = f"only {sets.floor.count} other real clips are left to compare with"
            figures.not_measured[f"floor/{name}"] = few

    def fvd(a: Summary, b: Summary) -> float:
        return frechet(a, b, protocol.ddof)

    if "fvd" in wanted:
        figures.attempt("fvd", lambda: measure("fvd", fvd))
    if "kvd" in wanted:
        figures.attempt("kvd", lambda: measure("kvd", _kernel))
    if "rfvd" in wanted:
        figures.attempt(
            "rfvd", lambda: figures.one(named("rfvd", by), fvd(sets.real, sets.reconstructed))
        )


def _kernel(a: Summary, b: Summary) -> float:
    if min(len(a.rows), len(b.rows)) < 2:
        raise UserError("a kernel distance needs at least 2 clips a side; add videos")
    return kernel(a, b)


def scores(figures: Figures, sets: Sets, by: str) -> None:
    """Inception score of samples, and of real clips as what can be reached."""

    def measure() -> None:
        found = [each.score() for each in sets.samples]
        name = named("is", by)
        figures.values[name] = estimate([score for score, _ in found])
        if sets.samples[0].splits > 1:
            figures.one(f"{name}_split_std", found[0][1])
        figures.one(f"real/{name}", sets.real.score()[0])

    figures.attempt("is", measure)


def scalars(figures: Figures, wanted: Sequence[str], sets: Sets) -> None:
    """Means over videos: pixel errors, accuracy and motion."""
    for name in ("psnr", "ssim", "lpips"):
        if name in wanted:
            figures.one(name, sets.reconstructed.mean(name))
    pairs = {"clip_right": "clip_accuracy", "frames_right": "frame_accuracy"}
    for prefix, group in (("real", [sets.real]), ("samples", sets.samples)):
        for name, shown in pairs.items():
            means = [mean for each in group if (mean := each.mean(name)) is not None]
            if means:
                figures.values[f"{prefix}/{shown}"] = estimate(means)
        if "motion" in wanted:
            _motion(figures, prefix, group[0])


def _motion(figures: Figures, prefix: str, seen: Summary) -> None:
    """Mean displacement in pixels a frame at each rate, and that at the lowest over the highest."""
    rates = seen.rates
    means = [seen.mean("displacement", rate) or 0.0 for rate in rates]
    for rate, mean in zip(rates, means, strict=True):
        figures.one(f"{prefix}/displacement_at_{rate:g}fps", mean)
    if len(rates) > 1:
        figures.one(f"{prefix}/displacement_ratio", means[0] / max(means[-1], 1e-9))


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


def memorising(figures: Figures, sets: Sets, train_MD: NDArray | None, held_out: bool) -> None:
    """How near samples lie to training clips, beside real clips that training never saw.

    A ratio far below 1 means samples lie nearer to training clips than new videos do.
    """
    if train_MD is None or not len(train_MD) or not sets.samples[0].rows:
        return
    near = nearest(sets.samples[0].rows_ND[:NEAREST_ROWS], train_MD).distance_N
    figures.one("nearest/samples", float(np.median(near)))
    if held_out and sets.real.rows:
        new = nearest(sets.real.rows_ND[:NEAREST_ROWS], train_MD).distance_N
        figures.one("nearest/held_out", float(np.median(new)))
        if np.median(new) > 0:
            figures.one("nearest/ratio", float(np.median(near) / np.median(new)))
