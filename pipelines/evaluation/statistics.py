"""Statistics of a set of videos, accumulated from features a batch at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.features import Features
from vqvdm.errors import UserError
from vqvdm.metrics.frechet import GaussianStatistics, as_matrix, merged
from vqvdm.metrics.inception import InceptionStatistics
from vqvdm.seeds import mix

KERNEL_ROWS = 2048
"""A kernel distance compares pairs: at most this many videos of a set, as in published figures."""
PARTS = 20
"""Random parts that a set is kept in, for intervals."""
AT_ONCE = 8
"""Features of a part that are accumulated at a time."""
SCALARS = ("displacement", "clip_right", "frames_right", "psnr", "ssim", "lpips")


@dataclass
class Statistics:
    """The statistics of one set of videos that metrics need.

    Features are accumulated into mean and scatter as they arrive, of each of a few random parts of
    the set. Rows are kept for the kernel distance only: at most `KERNEL_ROWS`, chosen at random by
    their position, because the first rows of a set sorted by class would be of its first classes
    only.
    """

    name: str
    size: int
    splits: int = 1
    seed: int = 0
    strata: NDArray | None = None
    """The class of each video, by position: parts have them in the proportions of the whole."""
    gaussians: dict[int, GaussianStatistics] = field(default_factory=dict)
    """By part."""
    inception: list[InceptionStatistics | None] = field(default_factory=list)
    rows: dict[int, NDArray] = field(default_factory=dict)
    scalars: dict[str, dict[float, list[float]]] = field(default_factory=dict)
    fps: set[float] = field(default_factory=set)
    count: int = 0

    def __post_init__(self) -> None:
        self.inception = [None] * self.splits
        # The position of each video in the shuffled set.
        self._place = np.random.default_rng(mix(self.seed, 0x51F7)).permutation(self.size)
        self._waiting: dict[int, list[NDArray]] = {}
        strata = np.zeros(self.size) if self.strata is None else self.strata
        self._part = np.empty(self.size, int)
        self._part[np.lexsort((self._place, strata))] = np.arange(self.size) % self.parts
        self._part_of_place = self._part[np.argsort(self._place)]

    @property
    def parts(self) -> int:
        """The number of parts: a part of a single video would tell little."""
        return PARTS if self.size >= 2 * PARTS else 1

    def add(self, found: Features, indices: NDArray) -> None:
        """Add some videos of the set, given their positions in it."""
        self.count += len(indices)
        places = self._place[indices]
        if "features" in found:
            features_ND = found["features"]
            matrix_ND = as_matrix(features_ND, f"features of {self.name}")
            for part in np.unique(self._part[indices]).tolist():
                waiting = self._waiting.setdefault(part, [])
                waiting.extend(matrix_ND[self._part[indices] == part])
                if len(waiting) >= AT_ONCE:
                    self._accumulate(part)
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

    def _accumulate(self, part: int) -> None:
        """Add the features that wait: many at a time, as each time costs a covariance."""
        more = GaussianStatistics.from_features(np.stack(self._waiting.pop(part)))
        known = self.gaussians.get(part)
        self.gaussians[part] = known.merge(more) if known else more

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
    def gaussian(self) -> GaussianStatistics | None:
        """Mean and scatter of the whole set; None without features."""
        parts = self.gaussian_parts
        return merged(parts) if parts else None

    @property
    def gaussian_parts(self) -> list[GaussianStatistics]:
        """Mean and scatter of each part, in order."""
        for part in list(self._waiting):
            self._accumulate(part)
        return [self.gaussians[part] for part in sorted(self.gaussians)]

    @property
    def row_parts(self) -> list[NDArray]:
        """The rows kept of each part, in the shuffled order."""
        by_part: dict[int, list[NDArray]] = {}
        for place in sorted(self.rows):
            by_part.setdefault(int(self._part_of_place[place]), []).append(self.rows[place])
        return [np.stack(by_part[part]) for part in sorted(by_part)]

    def score(self) -> tuple[float, float]:
        """Inception score: mean and standard deviation over the splits."""
        scores = [part.score() for part in self.inception if part]
        if len(scores) < self.splits:
            raise UserError(f"{self.name}: {self.count} videos do not fill {self.splits} splits")
        return float(np.mean(scores)), float(np.std(scores))

    def require_full_rank(self) -> None:
        """`UserError` if the set has too few clips for a covariance, or all are alike."""
        assert self.gaussian is not None
        self.gaussian.require_full_rank(self.name)
