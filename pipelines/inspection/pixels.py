"""Looking at some clips: brightness, motion, bars, repeated frames, and a picture of each."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from pipelines.inspection.videos import UNLABELLED
from pipelines.io import shards
from pipelines.io.markers import names_in
from pipelines.io.shards import Sample
from pipelines.video import Frames, measures
from pipelines.video.encoder import decode_clip

PEEK_BYTES = 4 << 20
"""How much of a shard is read."""
SHARDS = 64
"""Shards that are looked into, at most."""
SHOWN = 4
"""Clips of a class in a picture, each by four frames."""
FLAT = 8.0
"""Spread of a row's or column's values over a clip, of 255, up to which it may be part of a bar."""
DARK = 24.0
"""Brightness of a bar, at most."""


@dataclass(frozen=True)
class Looks:
    """What a clip looks like; brightness and motion are of 255."""

    brightness: float
    motion: float
    """Mean difference between neighbouring frames."""
    repeated: float
    """Share of frames that are those before them, in [0, 1]."""
    bar: float
    """Share of the height or width that dark bars take on both sides, in [0, 1]."""


@dataclass
class Pixels:
    """What some clips look like."""

    looks: list[Looks] = field(default_factory=list)
    strips: dict[str, list[Frames]] = field(default_factory=dict)
    """Clips of each class, four frames of each side by side: (H, 4 W, 3)."""

    def share(self, name: str, low: float, high: float = np.inf) -> float:
        """Share of clips of which a measure lies in [low, high)."""
        values = [getattr(each, name) for each in self.looks]
        return float(np.mean([low <= value < high for value in values])) if values else 0.0

    @property
    def metrics(self) -> dict[str, float]:
        names = ("brightness", "motion", "repeated", "bar")
        return {
            f"looks/{name}": float(np.mean([getattr(each, name) for each in self.looks]))
            for name in names
            if self.looks
        }


def look_at(folder: str, index: dict, samples: int) -> Pixels:
    """Look at so many clips of `index`, spread over shards; fewer where these are small."""
    there = names_in(folder, index, "shard_videos")
    names = [name for name in there if name.startswith("train")] or there
    chosen = np.unique(np.linspace(0, len(names) - 1, min(SHARDS, len(names))).round().astype(int))
    each, found = -(-samples // max(1, len(chosen))), Pixels()
    for place in chosen if names else ():
        for sample in _some(folder, names[place], each):
            frames = decode_clip(shards.clip_of(sample.members))
            found.looks.append(looks(frames))
            label = json.loads(sample.members["json"]).get("label") or UNLABELLED
            strips = found.strips.setdefault(label, [])
            if len(strips) < SHOWN:
                four = frames[np.linspace(0, len(frames) - 1, 4).round().astype(int)]
                strips.append(np.concatenate(four, axis=1))
    return found


def _some(folder: str, name: str, count: int) -> list[Sample]:
    """The first clips of a shard; none of one that is missing, which is told elsewhere."""
    try:
        return list(islice(shards.peek(folder, name, PEEK_BYTES), count))
    except FileNotFoundError:
        return []


def looks(frames_THWC: Frames) -> Looks:
    """Measure a clip, uint8 (T, H, W, 3)."""
    grey = frames_THWC.astype(np.float32).mean(axis=3)
    same = (frames_THWC[1:] == frames_THWC[:-1]).all(axis=(1, 2, 3))
    return Looks(
        measures.brightness(frames_THWC),
        measures.motion(frames_THWC),
        float(same.mean()) if len(same) else 0.0,
        max(_bar(grey, axis) for axis in (1, 2)),
    )


def _bar(grey_THW: NDArray[np.float32], axis: int) -> float:
    """Share of the rows or columns that two dark bars take, one on each side, up to the narrower.

    A bright object on a dark ground has none: what lies between bars is mostly not dark.
    """
    lines = np.moveaxis(grey_THW, axis, 0).reshape(grey_THW.shape[axis], -1)
    flat = (lines.std(axis=1) <= FLAT) & (lines.mean(axis=1) <= DARK)
    if flat.all():
        return 0.0
    first, last = int(np.argmin(flat)), int(np.argmin(flat[::-1]))
    between = lines[first : len(lines) - last]
    return 2 * min(first, last) / len(lines) if (between > DARK).mean() > 0.5 else 0.0
