"""One video into encoded clips: what runs in the process that can be killed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipelines.io.clips import Clip, ClipCutter, ClipSpec, Filters
from pipelines.io.reasons import VideoError
from pipelines.io.video import LosslessEncoder
from pipelines.io.video.bars import find_bars
from pipelines.io.video.decoder import Picture, read_frames
from pipelines.io.video.header import VideoInfo, probe
from pipelines.io.video.scenes import SceneDetector


@dataclass(frozen=True)
class CutRequest:
    """A local video, or a folder of images, and what to cut from it."""

    path: str
    spec: ClipSpec
    frames_fps: float | None = None
    """Rate of a folder of images; None for a video file."""
    start_s: float = 0.0
    end_s: float | None = None


@dataclass(frozen=True)
class EncodedClip:
    mp4: bytes
    fps: float
    start_frame: int
    start_s: float


@dataclass(frozen=True)
class DroppedClip:
    """A clip that a filter took out."""

    fps: float
    start_s: float
    reason: str
    score: float


@dataclass(frozen=True)
class Outcome:
    """The last event of a video: how far it was decoded, and why no further."""

    frames: int
    error: VideoError | None = None


Event = VideoInfo | EncodedClip | DroppedClip | Outcome


def cut_video(request: CutRequest) -> Iterator[Event]:
    """What the header says, the clips at every rate in one pass over the frames, the outcome."""
    cutting, error = _Cutting(request), None
    try:
        yield from cutting.events()
    except VideoError as found:
        error = found
    yield Outcome(cutting.frames, error)


def check_header(info: VideoInfo, request: CutRequest) -> None:
    """Raise `VideoError` for what limits and filters refuse before anything is decoded."""
    limits, filters = request.spec.limits, request.spec.filters
    pixels, short = info.width * info.height, min(info.width, info.height)
    if pixels > limits.max_pixels:
        raise VideoError("too_many_pixels", f"{info.width}x{info.height}", pixels)
    if short < filters.min_size:
        raise VideoError("too_small", f"{info.width}x{info.height}", short)
    if info.fps is None and None in request.spec.rates:
        raise VideoError("no_frame_rate")
    if info.duration_s is not None:
        end_s = info.duration_s if request.end_s is None else min(info.duration_s, request.end_s)
        _check_length(end_s - request.start_s, request)


def _check_length(length_s: float, request: CutRequest) -> None:
    if length_s > request.spec.limits.max_duration_s:
        raise VideoError("too_long", f"{length_s:.1f} s", length_s)
    if length_s < request.spec.filters.min_duration_s:
        raise VideoError("too_brief", f"{length_s:.2f} s", length_s)


class _Cutting:
    """The work on one video, and the number of frames decoded so far."""

    def __init__(self, request: CutRequest) -> None:
        self.request, self.frames, self.time_s = request, 0, request.start_s
        self._encoders: dict[float, LosslessEncoder] = {}
        """One for each rate."""

    def events(self) -> Iterator[VideoInfo | EncodedClip | DroppedClip]:
        """Raises `VideoError` after the last clip where something is wrong."""
        request, spec = self.request, self.request.spec
        info = probe(request.path, request.frames_fps)
        yield info
        check_header(info, request)
        cutters = [ClipCutter(spec, rate, info.fps or 0.0, request.start_s) for rate in spec.rates]
        damage = None
        try:
            for picture in self._pictures(info):
                for cutter in cutters:
                    for clip in cutter.push(picture):
                        yield self._judged(clip)
        except VideoError as error:
            if error.reason != "damaged":
                raise
            damage = error
        for cutter in cutters:
            for clip in cutter.finish():
                yield self._judged(clip)
        if damage:
            raise damage
        if info.duration_s is None:
            _check_length(self.time_s - request.start_s, request)

    def _pictures(self, info: VideoInfo) -> Iterator[Picture]:
        request, spec = self.request, self.request.spec
        detector = SceneDetector(info.fps) if spec.scenes == "detect" else None
        bars = find_bars(request.path, info, request.frames_fps) if spec.crop_bars else None
        span = (request.start_s, request.end_s, request.frames_fps)
        for picture in read_frames(request.path, spec.size, *span, bars, spec.limits.max_pixels):
            self.time_s, self.frames = picture.time_s, self.frames + 1
            if self.time_s - request.start_s > spec.limits.max_duration_s:
                _check_length(self.time_s - request.start_s, request)
            cut = detector is not None and detector.is_cut(picture.pixels)
            yield picture._replace(fresh=True) if cut else picture

    def _judged(self, clip: Clip) -> EncodedClip | DroppedClip:
        """Encode a clip, unless a filter takes it out."""
        found = _refused(clip, self.request.spec.filters)
        if found:
            return DroppedClip(clip.fps, clip.start_s, *found)
        if clip.fps not in self._encoders:
            size = self.request.spec.size
            self._encoders[clip.fps] = LosslessEncoder(size, size, clip.fps)
        mp4 = self._encoders[clip.fps].encode(clip.frames_THWC)
        return EncodedClip(mp4, clip.fps, clip.start_frame, clip.start_s)


def _refused(clip: Clip, filters: Filters) -> tuple[str, float] | None:
    if filters.min_brightness:
        brightness = float(clip.frames_THWC.mean())
        if brightness < filters.min_brightness:
            return "black", round(brightness, 3)
    if filters.min_motion:
        steps = np.diff(clip.frames_THWC.astype(np.int16), axis=0)
        motion = float(np.abs(steps).mean()) if len(steps) else 0.0
        if motion < filters.min_motion:
            return "static", round(motion, 3)
    return None
