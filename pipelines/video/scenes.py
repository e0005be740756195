"""Shot boundaries, found by PySceneDetect."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from pipelines.video import Frames
from pipelines.video.opencv import opencv

if TYPE_CHECKING:
    from scenedetect import ContentDetector

THRESHOLD = 27.0
"""Mean change of hue, saturation and brightness that is a cut: PySceneDetect's default."""


class SceneDetector:
    """Detects for each frame whether a new shot begins with it.

    Hard cuts are found, slow fades are not. Shots of any length are separated: one shorter than a
    clip gives no clip. Small frames suffice, so those of the clips are used.
    """

    def __init__(self, fps: float | None) -> None:
        # Imported late: it brings OpenCV.
        from scenedetect import ContentDetector

        opencv()
        self._detector: ContentDetector = ContentDetector(THRESHOLD, min_scene_len=0)
        self._fps, self._count = fps or 25.0, 0

    def is_cut(self, frame: Frames) -> bool:
        """Whether a shot begins with the next frame (H, W, 3), RGB."""
        from scenedetect import FrameTimecode

        timecode = FrameTimecode(self._count, self._fps)
        self._count += 1
        return bool(self._detector.process_frame(timecode, frame[..., ::-1]))


def largest_change(frames_THWC: Frames) -> float:
    """The largest change between neighbouring frames of a clip, RGB, as `SceneDetector` judges it:
    `THRESHOLD` and more is a cut. 0 for a single frame.

    PySceneDetect tells it only together with edges, which take ten times as long.
    """
    cv2 = opencv()
    hsv_THWC = [cv2.cvtColor(frame, cv2.COLOR_RGB2HSV) for frame in frames_THWC]
    steps = [np.mean(cv2.absdiff(one, other)) for one, other in pairwise(hsv_THWC)]
    return float(max(steps, default=0.0))
