"""Resampling to a steady rate: each tick shows the picture that is displayed at its time."""

from __future__ import annotations

import math
from typing import NamedTuple

from pipelines.video import Frames
from pipelines.video.decoder import Picture


class Tick(NamedTuple):
    """A frame of a clip: its number at the clip's rate, its time, its pixels."""

    number: int
    time_s: float
    pixels: Frames


class Resampler:
    """Resamples to a steady rate: each tick shows the picture that is displayed at its time."""

    def __init__(self, fps: float, start_s: float = 0.0) -> None:
        self.fps, self.start_s, self.ticks = fps, start_s, 0
        self._shown: Frames | None = None
        self._since_s, self._last_gap_s = start_s, 0.0

    def push(self, picture: Picture) -> list[Tick]:
        """Take the next picture; returns the ticks before it is displayed."""
        passed = self._until(picture.time_s)
        self._last_gap_s, self._since_s = picture.time_s - self._since_s, picture.time_s
        self._shown = picture.pixels
        return passed

    def finish(self, before_s: float = math.inf) -> list[Tick]:
        """The ticks of the last picture, which is shown for as long as the one before it."""
        return self._until(min(before_s, self._since_s + self._last_gap_s))

    def skip_to(self, time_s: float) -> None:
        """Skip the ticks up to a time."""
        self._shown, self._since_s = None, time_s
        self.ticks = max(self.ticks, math.ceil((time_s - self.start_s) * self.fps - 0.1))

    def _until(self, time_s: float) -> list[Tick]:
        passed: list[Tick] = []
        # A small margin, so that rounding of time stamps does not shift a frame by a tick.
        last = (time_s - self.start_s) * self.fps - 0.1
        while self._shown is not None and self.ticks < last:
            passed.append(Tick(self.ticks, self.start_s + self.ticks / self.fps, self._shown))
            self.ticks += 1
        return passed
