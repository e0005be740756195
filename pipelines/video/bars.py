"""Letterbox and pillarbox bars, found in a few frames spread over a video."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.video.header import VideoInfo
from pipelines.video.luma import sample_luma
from pipelines.video.shaper import Bars

SAMPLES = 8
BLACK = 16
"""Luma of 255 up to which a pixel counts as black."""


def find_bars(path: str, info: VideoInfo, frames_fps: float | None = None) -> Bars | None:
    """The bars that are black in all sampled frames; None where there are none.

    A picture that is black all over has no bars.
    """
    brightest: NDArray[np.uint8] | None = None
    for luma in sample_luma(path, info, SAMPLES, frames_fps):
        if brightest is not None and brightest.shape != luma.shape:
            return None
        brightest = luma if brightest is None else np.maximum(brightest, luma)
    if brightest is None:
        return None
    rows, columns = (np.flatnonzero(_lit(brightest, axis)) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return None
    height, width = brightest.shape
    # Even offsets keep the colour samples of 4:2:0 in place.
    left, top = int(columns[0]) // 2 * 2, int(rows[0]) // 2 * 2
    right, bottom = (width - 1 - int(columns[-1])) // 2 * 2, (height - 1 - int(rows[-1])) // 2 * 2
    return Bars(left, top, right, bottom) if left or top or right or bottom else None


def _lit(luma_HW: NDArray[np.uint8], axis: int) -> NDArray[np.bool_]:
    """Rows or columns with more than a few bright pixels: noise and dust do not count."""
    return np.quantile(luma_HW, 0.95, axis=axis) > BLACK
