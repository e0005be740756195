"""Resampling to a steady rate: each tick shows the picture that is displayed at its time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from pipelines.video import Frames
from pipelines.video.decoder import Picture

MARGIN_S = 0.002
"""By how much a picture may be late: in many formats time stamps are rounded to milliseconds."""


class Tick(NamedTuple):
    """A frame of a clip: its number at the clip's rate, its time, its pixels."""

    number: int
    time_s: float
    pixels: Frames


class Resampler:
    """Each tick shows the picture that is displayed at its time, as a screen would."""

    def __init__(self, fps: float, start_s: float = 0.0) -> None:
        self.fps, self.start_s = fps, start_s
        self.next = 0
        """Number of the next tick."""

    def push(self, picture: Picture) -> Iterator[Tick]:
        """Take the next picture; yields the ticks at which it is displayed."""
        self.next = max(self.next, math.ceil(self._place(picture.time_s)))
        last = self._place(picture.until_s)
        while self.next < last:
            yield Tick(self.next, self.start_s + self.next / self.fps, picture.pixels)
            self.next += 1

    def _place(self, time_s: float) -> float:
        return (time_s - self.start_s) * self.fps - min(0.1, MARGIN_S * self.fps)
