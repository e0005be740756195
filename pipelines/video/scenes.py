"""Shot boundaries, found by PySceneDetect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.video import Frames

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
        # Imported late: it brings OpenCV, which most runs do not need.
        import cv2
        from scenedetect import ContentDetector

        cv2.setNumThreads(1)
        self._detector: ContentDetector = ContentDetector(THRESHOLD, min_scene_len=0)
        self._fps, self._count = fps or 25.0, 0

    def is_cut(self, frame: Frames) -> bool:
        """Whether a shot begins with the next frame (H, W, 3), RGB."""
        from scenedetect import FrameTimecode

        timecode = FrameTimecode(self._count, self._fps)
        self._count += 1
        return bool(self._detector.process_frame(timecode, frame[..., ::-1]))
