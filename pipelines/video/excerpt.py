"""The beginning of a user's video, fitted as a clip: size, rate and length.

`first_frames` runs in the decoding process, which can be killed; see `decoding_process`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipelines.video import Frames
from pipelines.video.decoder import read_frames
from pipelines.video.reasons import VideoError
from pipelines.video.resampler import Resampler

MAX_PIXELS = 2**25
"""Pixels of a frame at most, 8K, as `shard_videos` has it by default."""


@dataclass(frozen=True)
class Excerpt:
    """A local file, and how much of it is wanted in which form."""

    path: str
    size: int
    fps: float
    frames: int


def first_frames(excerpt: Excerpt) -> Iterator[Frames | VideoError]:
    """Yields the first `frames` clean frames in a row (T, H, W, 3), at the rate that is asked for
    and as `shard_videos` shapes them; fewer where the video ends before. Or why there are none."""
    try:
        yield np.stack(_in_a_row(excerpt))
    except VideoError as error:
        yield error.bare()


def _in_a_row(excerpt: Excerpt) -> list[Frames]:
    """Not empty; raises `VideoError` where no frame is clean, or some are lost before enough are
    found."""
    resampler, found = Resampler(excerpt.fps), list[Frames]()
    for picture in read_frames(excerpt.path, excerpt.size, max_pixels=MAX_PIXELS):
        if picture.fresh:
            found = []
        for tick in resampler.push(picture):
            found.append(tick.pixels)
            if len(found) == excerpt.frames:
                return found
    if not found:
        raise VideoError("too_short", "no frame is displayed long enough")
    return found
