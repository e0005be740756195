"""Cutting a video into clips: rates, strides, interruptions and filters.

`cut_video` runs in the decoding process, which can be killed; see `decoding_process`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from pipelines.io import checksums
from pipelines.sharding.settings import Filters, Limits
from pipelines.video import Frames, measures
from pipelines.video.bars import find_bars
from pipelines.video.decoder import MAX_GAP_S, Picture, read_frames
from pipelines.video.header import VideoInfo, length_is_estimated, probe
from pipelines.video.lossless import LosslessEncoder
from pipelines.video.reasons import VideoError
from pipelines.video.resampler import Resampler, Tick
from pipelines.video.scenes import SceneDetector, largest_change

FORMAT = 5
"""Changed whenever sound videos of a steady rate would give other bytes: roots made before are then
refused. Where only odd videos are cut better, roots stay valid as they are."""
MAX_ENCODERS = 8
"""Encoders that are kept open for one video."""
ROUNDING_S = 0.001
"""What two rounded time stamps are farther apart than the frames, at most."""
MAX_GRID_S = 60
"""Rates whose clips begin together less often lose up to a clip each where a span ends."""


SCORES = ("brightness", "motion", "sharpness", "change")
"""What is measured of a clip, if scores are asked for."""


@dataclass(frozen=True)
class ClipSpec:
    """How clips are cut."""

    frames: int
    size: int
    stride: int
    rates: tuple[float | None, ...]
    """Frames a second; None stands for the video's own rate."""
    classes: tuple[str, ...]
    scenes: str = "none"
    crop_bars: bool = False
    limits: Limits = field(default_factory=Limits)
    filters: Filters = field(default_factory=Filters)
    scores: tuple[str, ...] = ()
    """Names of the scores that clips come with, in order."""

    @property
    def cut(self) -> dict[str, Any]:
        """What decides how clips are cut, as in JSON. Settings that came later are there only where
        they are set, as in indices before."""
        found = asdict(self) | {"format": FORMAT}
        del found["classes"]
        if not self.scores:
            del found["scores"]
        if not self.filters.min_fps:
            del found["filters"]["min_fps"]
        return json.loads(checksums.json_bytes(found))

    @cached_property
    def hash(self) -> str:
        """Fingerprint of `cut`, the same for all clips of a folder."""
        return checksums.fingerprint(self.cut)

    @property
    def recorded(self) -> dict[str, Any]:
        """All of it, as an index has it."""
        return self.cut | {"classes": list(self.classes), "hash": self.hash}


@dataclass(frozen=True)
class CutRequest:
    """A local video, or a folder of images, and what to cut from it."""

    path: str
    spec: ClipSpec
    frames_fps: float | None = None
    """Rate of a folder of images; None for a video file."""
    start_s: float = 0.0
    end_s: float | None = None
    span: tuple[int, int] | None = None
    """Which of how many spans of the video to cut, from 1."""
    most_s: float | None = None
    """How many seconds to cut at most; by default all."""


@dataclass(frozen=True)
class Part:
    """The part of a video that is cut."""

    start_s: float
    end_s: float | None
    """None for the end of the video, wherever it is."""


@dataclass(frozen=True)
class EncodedClip:
    video: bytes
    """A Matroska file that decodes to exactly its pixels."""
    fps: float
    start_frame: int
    start_s: float
    scores: dict[str, float] | None = None
    """Its scores by name, if they are asked for."""


@dataclass(frozen=True)
class DroppedClip:
    """A clip that a filter removed."""

    fps: float
    start_s: float
    reason: str
    score: float
    scores: dict[str, float] | None = None
    """As in `EncodedClip`."""


@dataclass(frozen=True)
class Outcome:
    """The last event of a video: the number of frames decoded, and the error that ended it."""

    frames: int
    error: VideoError | None = None


Event = VideoInfo | Part | EncodedClip | DroppedClip | Outcome


def cut_video(request: CutRequest) -> Iterator[Event]:
    """Yields the header, the part if it is a span, the clips at every rate in one pass over the
    frames, and the outcome."""
    cutting, error = _Cutting(request), None
    try:
        yield from cutting.events()
    except VideoError as found:
        error = found.bare()
    yield Outcome(cutting.frames, error)


def check_header(info: VideoInfo, request: CutRequest) -> Part:
    """What of a video to cut; `VideoError` if limits or filters refuse it before it is decoded."""
    limits, filters = request.spec.limits, request.spec.filters
    pixels, short = info.width * info.height, min(info.width, info.height)
    if pixels > limits.max_pixels:
        raise VideoError("too_many_pixels", f"{info.width}x{info.height}", pixels)
    if short < filters.min_size:
        raise VideoError("too_small", f"{info.width}x{info.height}", short)
    if info.fps is not None and info.fps < filters.min_fps:
        raise VideoError("low_frame_rate", f"{info.fps:g} frames a second", info.fps)
    if info.fps is None and None in request.spec.rates:
        raise VideoError("no_frame_rate")
    part = _part(info, request)
    if info.duration_s is not None:
        end_s = info.duration_s if part.end_s is None else min(info.duration_s, part.end_s)
        length_s = end_s - part.start_s
        if not (length_s > limits.max_duration_s and _is_estimated(request)):
            _refuse_long(length_s, request)
        _refuse_brief(info.duration_s if request.span else length_s, request)
    return part


def _is_estimated(request: CutRequest) -> bool:
    """Whether the header only estimates the length; of spans it knows it, as of all with an
    index."""
    is_whole_file = request.span is None and request.frames_fps is None
    return is_whole_file and length_is_estimated(request.path)


def _refuse_long(length_s: float, request: CutRequest) -> None:
    if length_s > request.spec.limits.max_duration_s:
        raise VideoError("too_long", f"{length_s:.1f} s", length_s)


def _refuse_brief(length_s: float, request: CutRequest) -> None:
    if length_s < request.spec.filters.min_duration_s:
        raise VideoError("too_brief", f"{length_s:.2f} s", length_s)


def _part(info: VideoInfo, request: CutRequest) -> Part:
    """What is asked for; `VideoError` where nothing of the video falls into the span.

    Spans begin where clips of the whole video do, if its rate is steady, and each is long enough
    for a clip at every rate: so there may be fewer than were planned from the size of the file, and
    only one if the header tells no length.
    """
    if request.span is None:
        return Part(request.start_s, request.end_s)
    number, planned = request.span
    grid_s, least_s = _grid([rate or info.fps or 0.0 for rate in request.spec.rates], request.spec)
    length_s = _exact(info.duration_s or 0.0)
    count = max(1, min(planned, length_s // least_s))
    if number > count:
        raise VideoError("empty_span", f"it has {count} of {planned} spans")
    start_s, end_s = (
        float(length_s * place / count // grid_s * grid_s) for place in (number - 1, number)
    )
    return Part(start_s, end_s if number < count else None)


def _exact(value: float) -> Fraction:
    """What a float was rounded from, such as 30000/1001."""
    return Fraction(value).limit_denominator(100_000)


def _grid(rates: list[float], spec: ClipSpec) -> tuple[Fraction, Fraction]:
    """How far times are apart at which clips of all rates begin, and how long a span is at least;
    in seconds."""
    steps_s = [spec.stride / (_exact(rate) or Fraction(rate)) for rate in rates]
    numerators, denominators = zip(*(step_s.as_integer_ratio() for step_s in steps_s), strict=True)
    grid_s = Fraction(math.lcm(*numerators), math.gcd(*denominators))
    if grid_s > MAX_GRID_S:
        grid_s = max(steps_s)
    clip_s = max(steps_s) * spec.frames / spec.stride
    return grid_s, math.ceil(clip_s / grid_s) * grid_s


class _Cutting:
    """The work on one video, and the number of frames decoded so far."""

    def __init__(self, request: CutRequest) -> None:
        self.request, self.frames = request, 0
        self.played_s = 0.0
        """Without what the clock jumps over."""
        self.part = Part(0.0, None)
        self._encoders: dict[float, LosslessEncoder] = {}
        """One for each rate."""

    def events(self) -> Iterator[VideoInfo | Part | EncodedClip | DroppedClip]:
        """Raises `VideoError` after the last clip if frames are damaged."""
        request, spec = self.request, self.request.spec
        info = probe(request.path, request.frames_fps)
        yield info
        self.part = part = check_header(info, request)
        if request.span:
            yield part
        cutters = [ClipCutter(spec, rate, info.fps or 0.0, part.start_s) for rate in spec.rates]
        damage: VideoError | None = None
        try:
            for picture in self._pictures(info):
                for cutter in cutters:
                    for clip in cutter.push(picture):
                        yield self._judged(clip)
        except VideoError as error:
            if error.reason != "damaged":
                raise
            damage = error.bare()
        if damage:
            raise damage.bare()
        if info.duration_s is None:
            _refuse_brief(self.played_s, request)

    def _pictures(self, info: VideoInfo) -> Iterator[Picture]:
        request, spec = self.request, self.request.spec
        detector = SceneDetector(info.fps) if spec.scenes == "detect" else None
        bars = find_bars(request.path, info, request.frames_fps) if spec.crop_bars else None
        start_s, end_s = self.part.start_s, self.part.end_s
        if request.most_s is not None:
            end_s = min(start_s + request.most_s, math.inf if end_s is None else end_s)
        taken = (start_s, end_s, request.frames_fps)
        since_s = start_s
        for picture in read_frames(request.path, spec.size, *taken, bars, spec.limits.max_pixels):
            if picture.time_s >= start_s:
                self.frames += 1
                self.played_s += min(picture.time_s - since_s, MAX_GAP_S)
                since_s = picture.time_s
            _refuse_long(self.played_s, request)
            cut = detector is not None and detector.is_cut(picture.pixels)
            yield picture._replace(fresh=True) if cut else picture

    def _judged(self, clip: Clip) -> EncodedClip | DroppedClip:
        """Encode a clip, unless a filter removes it."""
        found = _refused(clip, self.request.spec.filters)
        scores = clip.scores(self.request.spec.scores) or None
        if found:
            return DroppedClip(clip.fps, clip.start_s, *found, scores)
        video = self._encoder(clip.fps).encode(clip.frames_THWC)
        return EncodedClip(video, clip.fps, clip.start_frame, clip.start_s, scores)

    def _encoder(self, fps: float) -> LosslessEncoder:
        if fps not in self._encoders:
            if len(self._encoders) == MAX_ENCODERS:  # Every clip may have a rate of its own.
                self._encoders.pop(next(iter(self._encoders)))
            size = self.request.spec.size
            self._encoders[fps] = LosslessEncoder(size, size, fps)
        return self._encoders[fps]


def _refused(clip: Clip, filters: Filters) -> tuple[str, float] | None:
    if filters.min_brightness and clip.brightness < filters.min_brightness:
        return "black", round(clip.brightness, 3)
    if filters.min_motion and clip.motion < filters.min_motion:
        return "static", round(clip.motion, 3)
    return None


@dataclass(frozen=True)
class Clip:
    frames_THWC: Frames
    fps: float
    start_frame: int
    """Counted at the clip's rate."""
    start_s: float

    @cached_property
    def brightness(self) -> float:
        return measures.brightness(self.frames_THWC)

    @cached_property
    def motion(self) -> float:
        return measures.motion(self.frames_THWC)

    @property
    def sharpness(self) -> float:
        return measures.sharpness(self.frames_THWC)

    @property
    def change(self) -> float:
        return largest_change(self.frames_THWC)

    def scores(self, names: Iterable[str]) -> dict[str, float]:
        """Scores of `SCORES`, rounded."""
        return {name: round(getattr(self, name), 3) for name in names}


class ClipCutter:
    """Cuts a stream of pictures into clips at one rate, holding no more than one clip.

    Pictures that are displayed already at `start_s` serve resampling only.
    """

    def __init__(
        self, spec: ClipSpec, rate: float | None, native_fps: float, start_s: float = 0.0
    ) -> None:
        self.spec, self.rate, self.native_fps, self.start_s = spec, rate, native_fps, start_s
        self._resampler = Resampler(rate, start_s) if rate else None
        self._window: list[Tick] = []
        self._seen = 0
        self._stretch: int | None = 0
        """Number of the first frame since the last interruption; None right after one."""

    def push(self, picture: Picture) -> Iterator[Clip]:
        """Take the next picture; yields the clips that end with it."""
        if picture.fresh:
            self._window, self._stretch = [], None
        for tick in self._ticks(picture):
            if self._stretch is None:
                self._stretch = tick.number
            # With a stride longer than a clip, the frames between two clips are skipped.
            place = (tick.number - self._stretch) % self.spec.stride
            if self._window or place < self.spec.frames:
                self._window.append(tick)
            if len(self._window) == self.spec.frames:
                yield self._clip()
                self._window = self._window[self.spec.stride :]

    def _ticks(self, picture: Picture) -> Iterator[Tick]:
        if self._resampler:
            yield from self._resampler.push(picture)
        elif picture.time_s >= self.start_s:
            yield Tick(self._seen, picture.time_s, picture.pixels)
            self._seen += 1

    def _clip(self) -> Clip:
        first = self._window[0]
        pixels = np.stack([tick.pixels for tick in self._window])
        fps = self.rate or _own_rate([tick.time_s for tick in self._window], self.native_fps)
        return Clip(pixels, fps, first.number, round(first.time_s, 6))


def _own_rate(times_s: list[float], native_fps: float) -> float:
    """The rate of a clip of all frames: that of the video, unless it varies."""
    steps_s = np.diff(times_s)
    assert (steps_s > 0).all(), times_s
    if not len(steps_s):
        return native_fps
    step_s, native_s = float(steps_s.mean()), 1 / native_fps
    # Time stamps are rounded, in many formats to milliseconds: that of the first and of the last.
    if abs(step_s - native_s) < 0.01 * native_s + ROUNDING_S / len(steps_s):
        return native_fps
    return round(1 / step_s, 2)
