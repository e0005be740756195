"""What a clip looks like in numbers, by which filters and inspections judge it."""

from __future__ import annotations

import numpy as np

from pipelines.video import Frames
from pipelines.video.opencv import opencv


def brightness(frames_THWC: Frames) -> float:
    """Mean of all values of a clip, uint8 (T, H, W, 3), of 255."""
    return float(frames_THWC.mean())


def motion(frames_THWC: Frames) -> float:
    """Mean difference between neighbouring frames, of 255; 0 for a single one."""
    steps = np.diff(frames_THWC.astype(np.int16), axis=0)
    return float(np.abs(steps).mean()) if len(steps) else 0.0


def sharpness(frames_THWC: Frames) -> float:
    """Variance of the Laplacian of luma, the mean of all frames: low where they are blurred.

    It depends on what is shown, and on the size of the frames. Pech-Pacheco et al., "Diatom
    autofocusing in brightfield microscopy: a comparative study", ICPR 2000.
    """
    cv2 = opencv()
    lumas = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames_THWC)
    return float(np.mean([cv2.Laplacian(luma, cv2.CV_64F).var() for luma in lumas]))
