"""Mean and deviation of what is stored: each shard has its sums, the index those of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pipelines.io.markers import Marker

LEAST_SPREAD = 1e-3
"""Standard deviation of embeddings of norm √D below which all are the same one."""


class Sums:
    """Count, sum and sum of squares of each latent channel, in float64."""

    def __init__(self) -> None:
        self.count, self.sum_C, self.squares_C = 0, np.zeros(1), np.zeros(1)

    def add(self, z_NCTHW: np.ndarray) -> None:
        z = z_NCTHW.astype(np.float64)
        self.count += z.size // z.shape[1]
        self.sum_C = self.sum_C + z.sum((0, 2, 3, 4))
        self.squares_C = self.squares_C + (z**2).sum((0, 2, 3, 4))

    def as_dict(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "sum": self.sum_C.tolist(),
            "squares": self.squares_C.tolist(),
        }


def channel_statistics(markers: list[Marker]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over the training split."""
    mean_C, variance_C = _moments(
        m.details["sums"] for m in markers if m.split == "train" and m.keys
    )
    return mean_C.tolist(), np.sqrt(np.maximum(variance_C, 1e-12)).tolist()


def embedding_statistics(markers: list[Marker]) -> tuple[list[float], float]:
    """Mean (D,) of the embeddings of captions, and the standard deviation of all their numbers
    together, over the training split; 0 and 1 without captions there."""
    told = [m.details["text"] for m in markers if m.split == "train"]
    if not any(each["clips"] for each in told):
        return [0.0] * markers[0].details["text"]["width"], 1.0
    mean_D, variance_D = _moments(each["sums"] for each in told if each["clips"])
    std = float(np.sqrt(np.maximum(variance_D, 0).mean()))
    return mean_D.tolist(), std if std > LEAST_SPREAD else 1.0


def _moments(sums: Iterable[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each channel, from the sums of its parts."""
    parts = list(sums)
    count = sum(part["count"] for part in parts)
    mean_C = np.sum([part["sum"] for part in parts], axis=0) / count
    return mean_C, np.sum([part["squares"] for part in parts], axis=0) / count - mean_C**2
