"""Statistics of a set of videos, accumulated from features a batch at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.features import Features
from vqvdm.errors import UserError
from vqvdm.metrics.frechet import GaussianStatistics, frechet_distance_from_statistics
from vqvdm.metrics.inception import InceptionStatistics
from vqvdm.metrics.kernel import kernel_distance
from vqvdm.seeds import mix

KERNEL_ROWS = 2048
"""A kernel distance compares pairs: at most this many videos of a set, as in published figures."""
SCALARS = ("displacement", "clip_right", "frames_right", "psnr", "ssim", "lpips")


@dataclass
class Statistics:
    """The statistics of one set of videos that metrics need.

    Features are accumulated into mean and scatter as they arrive. Rows are kept for the kernel
    distance only: at most `KERNEL_ROWS`, chosen at random by their position, because the first
    rows of a set sorted by class would be of its first classes only.
    """

    name: str
    size: int
    splits: int = 1
    seed: int = 0
    keep_rows: bool = True
    gaussian: GaussianStatistics | None = None
    inception: list[InceptionStatistics | None] = field(default_factory=list)
    rows: dict[int, NDArray] = field(default_factory=dict)
    scalars: dict[str, dict[float, list[float]]] = field(default_factory=dict)
    fps: set[float] = field(default_factory=set)
    count: int = 0

    def __post_init__(self) -> None:
        self.inception = [None] * self.splits
        # The position of each video in the shuffled set.
        self._place = np.random.default_rng(mix(self.seed, 0x51F7)).permutation(self.size)

    def add(self, found: Features, indices: NDArray) -> None:
        """Add some videos of the set, given their positions in it."""
        self.count += len(indices)
        places = self._place[indices]
        if "features" in found:
            features_ND = found["features"]
            more = GaussianStatistics.from_features(features_ND, f"features of {self.name}")
            self.gaussian = self.gaussian.merge(more) if self.gaussian else more
            if self.keep_rows:
                few = np.flatnonzero(places < KERNEL_ROWS)
                self.rows |= {int(places[i]): features_ND[i].copy() for i in few}
        if "probabilities" in found:
            part_N = places * self.splits // self.size
            for part in np.unique(part_N):
                new = InceptionStatistics.from_probabilities(found["probabilities"][part_N == part])
                old = self.inception[part]
                self.inception[part] = old.merge(new) if old else new
        self.fps |= set(found["fps"].tolist()) if "fps" in found else set()
        rates = found.get("fps", np.zeros(len(indices)))
        for name in SCALARS:
            for value, rate in zip(found.get(name, ()), rates, strict=False):
                if np.isfinite(value):  # identical videos have an infinite PSNR
                    sums = self.scalars.setdefault(name, {}).setdefault(float(rate), [0.0, 0.0])
                    sums[0] += float(value)
                    sums[1] += 1

    def mean(self, name: str, rate: float | None = None) -> float | None:
        """Mean of a scalar over the set, or over its videos of one frame rate."""
        by_rate = self.scalars.get(name, {})
        parts = list(by_rate.values()) if rate is None else [by_rate.get(rate, [0.0, 0.0])]
        count = sum(part[1] for part in parts)
        return sum(part[0] for part in parts) / count if count else None

    @property
    def rates(self) -> list[float]:
        """Frame rates of the videos."""
        return sorted(self.fps)

    @property
    def rows_ND(self) -> NDArray:
        """The rows kept, in the shuffled order."""
        return np.stack([self.rows[place] for place in sorted(self.rows)])

    def score(self) -> tuple[float, float]:
        """Inception score: mean and standard deviation over the splits."""
        scores = [part.score() for part in self.inception if part]
        if len(scores) < self.splits:
            raise UserError(f"{self.name}: {self.count} videos do not fill {self.splits} splits")
        return float(np.mean(scores)), float(np.std(scores))


def frechet(a: Statistics, b: Statistics, ddof: int) -> float:
    """Fréchet distance of two sets; `UserError` if a set has too few clips."""
    for each in (a, b):
        assert each.gaussian is not None
        each.gaussian.require_full_rank(each.name)
    assert a.gaussian and b.gaussian
    return frechet_distance_from_statistics(a.gaussian, b.gaussian, ddof)


def kernel(a: Statistics, b: Statistics) -> float:
    """Kernel distance of two sets, over at most `KERNEL_ROWS` of each."""
    return kernel_distance(a.rows_ND, b.rows_ND)
