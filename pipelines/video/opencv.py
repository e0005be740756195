"""OpenCV, imported only where it is used: most runs do not need it."""

from __future__ import annotations

from functools import cache
from types import ModuleType


@cache
def opencv() -> ModuleType:
    """The module `cv2`, on one thread: every core has a worker of its own."""
    import cv2

    cv2.setNumThreads(1)
    return cv2
