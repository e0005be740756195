"""What a clip looks like in numbers, by which filters and inspections judge it."""

from __future__ import annotations

import numpy as np

from pipelines.video import Frames


def brightness(frames_THWC: Frames) -> float:
    """Mean of all values of a clip, uint8 (T, H, W, 3), of 255."""
    return float(frames_THWC.mean())


def motion(frames_THWC: Frames) -> float:
    """Mean difference between neighbouring frames, of 255; 0 for a single one."""
    steps = np.diff(frames_THWC.astype(np.int16), axis=0)
    return float(np.abs(steps).mean()) if len(steps) else 0.0
