"""Protocols of evaluation, by name: what a figure depends on.

docs/evaluation.md explains how they differ, and which traps they avoid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ProtocolName = Literal["held-out", "published", "tats", "stylegan-v"]


@dataclass(frozen=True)
class Protocol:
    """All that a figure depends on besides the model, the data and the detector."""

    description: str
    num_samples: int
    """Sampled videos in each repeat, and as many real clips."""
    repeats: int
    """Sets of samples: figures are means over them."""
    is_splits: int
    """Parts a set is cut into for the inception score."""
    ddof: int
    """Covariances divide by N minus this."""
    real_split: str
    """Split of the real clips: train, val, or all."""
    real_draw: str
    """`videos`: one random clip of each; `clips`: any clip, so long videos weigh more."""


PROTOCOLS: dict[str, Protocol] = {
    "held-out": Protocol(
        "a quick look at clips that training never saw", 100, 1, 1, 1, "val", "clips"
    ),
    "published": Protocol(
        "2,048 against 2,048, one random clip a video; the inception score over 10 sets",
        2048, 10, 1, 1, "train", "videos",
    ),
    "tats": Protocol(
        "as TATS: clips drawn from all windows, so that long videos weigh more",
        2048, 10, 1, 1, "train", "clips",
    ),
    "stylegan-v": Protocol(
        "as StyleGAN-V: real clips of both splits, covariance by N, the score in 10 splits",
        2048, 1, 10, 0, "all", "videos",
    ),
}  # fmt: skip
