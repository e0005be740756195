"""Where clips lie in a stream of pictures: rates, strides, and what no clip may straddle."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pipelines.io.video import Frames
from pipelines.io.video.decoder import Picture


@dataclass(frozen=True)
class Limits:
    """Videos beyond these are rejected, before they are decoded where the header tells."""

    max_pixels: int = 2**25
    """Pixels of a frame; by default 8K passes."""
    max_duration_s: float = 7200.0
    """Length of a video in seconds."""


@dataclass(frozen=True)
class Filters:
    """What is left out on request; 0 leaves a filter off."""

    min_size: int = 0
    """Least short side of a video in pixels."""
    min_duration_s: float = 0.0
    """Least length of a video in seconds."""
    min_motion: float = 0.0
    """Least mean difference between neighbouring frames of a clip, of 255; 0.5 finds stills."""
    min_brightness: float = 0.0
    """Least mean of a clip, of 255; 8 finds black ones."""
    min_distance: float = 0.0
    """Least distance of a video from every one that is kept, in bits of 64 of a perceptual hash;
    4 finds copies that were encoded again."""


@dataclass(frozen=True)
class ClipSpec:
    """How clips are cut."""

    frames: int
    size: int
    stride: int
    rates: tuple[float | None, ...]
    """Frames a second; None stands for the video's own rate."""
    classes: tuple[str, ...]
    hash: str
    """Fingerprint of all settings: a folder holds the clips of one."""
    scenes: str = "none"
    crop_bars: bool = False
    limits: Limits = field(default_factory=Limits)
    filters: Filters = field(default_factory=Filters)


@dataclass(frozen=True)
class Clip:
    frames_THWC: Frames
    fps: float
    start_frame: int
    """Counted at the clip's rate."""
    start_s: float


class Tick(NamedTuple):
    """A frame of a clip: its number at the clip's rate, its time, its pixels."""

    number: int
    time_s: float
    pixels: Frames


class Resampler:
    """Picks pictures at a steady rate: at each tick, the one that is on the screen then."""

    def __init__(self, fps: float, start_s: float = 0.0) -> None:
        self.fps, self.start_s, self.ticks = fps, start_s, 0
        self._shown: Frames | None = None
        self._since_s, self._last_gap_s = start_s, 0.0

    def push(self, picture: Picture) -> list[Tick]:
        """Take the next picture; returns the ticks that pass before it comes on the screen."""
        passed = self._until(picture.time_s)
        self._last_gap_s, self._since_s = picture.time_s - self._since_s, picture.time_s
        self._shown = picture.pixels
        return passed

    def finish(self, before_s: float = math.inf) -> list[Tick]:
        """The ticks of the last picture, which is shown for as long as the one before it."""
        return self._until(min(before_s, self._since_s + self._last_gap_s))

    def skip_to(self, time_s: float) -> None:
        """Let the ticks up to a time pass unseen."""
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


class ClipCutter:
    """Cuts a stream of pictures into clips at one rate, holding no more than one clip."""

    def __init__(
        self, spec: ClipSpec, rate: float | None, native_fps: float, start_s: float = 0.0
    ) -> None:
        self.spec, self.fps = spec, rate or native_fps
        self._resampler = Resampler(rate, start_s) if rate else None
        self._window: list[Tick] = []
        self._seen = 0
        self._stretch = 0
        """Number of the first frame since the last interruption."""

    def push(self, picture: Picture) -> Iterator[Clip]:
        if picture.fresh:
            yield from self._interrupt(picture.time_s)
        if self._resampler:
            yield from self._cut(self._resampler.push(picture))
        else:
            yield from self._cut([Tick(self._seen, picture.time_s, picture.pixels)])

    def finish(self) -> Iterator[Clip]:
        yield from self._cut(self._resampler.finish() if self._resampler else [])

    def _interrupt(self, time_s: float) -> Iterator[Clip]:
        """Begin anew: no clip holds frames from before a time and after it."""
        if self._resampler:
            yield from self._cut(self._resampler.finish(time_s))
            self._resampler.skip_to(time_s)
            self._seen = self._resampler.ticks
        self._window, self._stretch = [], self._seen

    def _cut(self, ticks: list[Tick]) -> Iterator[Clip]:
        for tick in ticks:
            # With a stride longer than a clip, the frames between two clips are passed over.
            place = (tick.number - self._stretch) % self.spec.stride
            if self._window or place < self.spec.frames:
                self._window.append(tick)
            self._seen = tick.number + 1
            if len(self._window) == self.spec.frames:
                first = self._window[0]
                pixels = np.stack([tick.pixels for tick in self._window])
                yield Clip(pixels, self.fps, first.number, round(first.time_s, 6))
                self._window = self._window[self.spec.stride :]
