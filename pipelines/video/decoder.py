"""Decoding users' video files to clean frames, with PyAV.

Everything here may hang, crash or use too much memory on a bad file: it runs in the decoding
process, which can be killed. Frames are uint8 RGB arrays (size, size, 3): upright, with square
pixels.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from pipelines.video import Frames
from pipelines.video.endings import ends_early
from pipelines.video.header import (
    VideoInfo,
    ffmpeg_errors,
    frame_rate,
    images,
    open_video,
    pixel_aspect,
    raise_if_starved,
    video_stream,
)
from pipelines.video.reasons import VideoError
from pipelines.video.shaper import Bars, Shaper

INDEXED = frozenset(("mov", "matroska", "avi"))
"""Formats with an index of their key frames."""

MAX_GAP_S = 10.0
"""A frame shown for longer than this ends a clip: time stamps may also jump by hours."""


class Picture(NamedTuple):
    """A clean frame and its time; no clip holds a `fresh` picture and earlier ones."""

    time_s: float
    pixels: Frames
    fresh: bool


def read_frames(
    path: str,
    size: int,
    start_s: float = 0.0,
    end_s: float | None = None,
    frames_fps: float | None = None,
    bars: Bars | None = None,
    max_pixels: int | None = None,
) -> Iterator[Picture]:
    """Decode the clean frames of a local file, or of a folder of images at `frames_fps`.

    The short side is resized to `size` (bilinear, widened when shrinking, so without aliasing)
    and the centre square is cut out. Time counts from the first frame of the video. After a
    damaged frame, all frames up to the next key frame are left out, and the next is `fresh`;
    `VideoError("damaged")` follows after the last frame.
    """
    shaper = Shaper(size, bars)
    if frames_fps is not None:
        decoded = _image_frames(path, frames_fps, start_s)
    else:
        decoded = _video_frames(path, start_s)
    last: float | None = None
    with closing(decoded):
        for time_s, fresh, frame, aspect in decoded:
            if end_s is not None and time_s >= end_s:
                break
            pixels = frame.width * frame.height
            if max_pixels and pixels > max_pixels:
                raise VideoError("too_many_pixels", f"{frame.width}x{frame.height}", pixels)
            if time_s >= start_s:
                gap = last is not None and time_s - last > MAX_GAP_S
                yield Picture(time_s, shaper(frame, aspect), fresh or gap)
                last = time_s


Decoded = Generator[tuple[float, bool, av.VideoFrame, float], None, None]
"""Time in seconds, whether it is fresh, the frame, the aspect ratio of its pixels."""


def _image_frames(folder: str, fps: float, start_s: float) -> Decoded:
    damage, fresh = "", False
    for index, file in enumerate(images(folder)):
        if index / fps < start_s:
            continue
        try:
            with open_video(str(file)) as container:
                stream = video_stream(container)
                frame = next(iter(container.decode(stream)))
                yield index / fps, fresh, frame, pixel_aspect(stream)
                fresh = False
        except (VideoError, av.FFmpegError, StopIteration) as error:
            raise_if_starved(error)
            damage, fresh = damage or file.name, True
    if damage:
        raise VideoError("damaged", f"at {damage}")


def _video_frames(path: str, start_s: float) -> Decoded:
    with open_video(path) as container, ExitStack() as decoding:
        stream = video_stream(container)
        rate, aspect = frame_rate(stream), pixel_aspect(stream)
        origin = _origin(stream)
        if start_s > 0 and origin is not None:
            _seek(container, stream, origin + start_s)
        last: float | None = None
        frames = decoding.enter_context(closing(_clean_frames(container, stream, path)))
        for frame, fresh in frames:
            time = frame.time
            if time is not None:
                origin = time if origin is None else origin
                time -= origin
            if time is None or (last is not None and time <= last):
                # Without a time stamp, or with one that goes backwards, frames are a step apart.
                if rate is None:
                    raise VideoError("no_frame_rate", "frames have no times")
                time = 0.0 if last is None else last + float(1 / rate)
            last = time
            yield time, fresh, frame, aspect


def _origin(stream: av.VideoStream) -> float | None:
    """Time stamp of the first frame; None if the header does not give it."""
    if stream.start_time is None or not stream.time_base:
        return None
    return float(stream.start_time * stream.time_base)


def _seek(container: av.container.InputContainer, stream: av.VideoStream, time_s: float) -> None:
    """Go to the last key frame before a time, in formats with an index of them.

    In others seeking is inexact and may go past the time; they are read from the start.
    """
    if container.format.name.split(",")[0] in INDEXED and stream.time_base:
        container.seek(int(time_s / stream.time_base), stream=stream, backward=True)


class _DamageSeen:
    """Detects, in a container's log messages, damage that it repairs silently."""

    def __init__(self, container: av.container.InputContainer, messages: list) -> None:
        self.name, self.messages, self.first = container.format.name, messages, ""

    def since_last(self) -> str:
        errors = [m for _, name, m in self.messages if name == self.name]
        self.messages.clear()
        return errors[0].strip() if errors else ""

    def note(self, what: str) -> None:
        self.first = self.first or what


def _clean_frames(
    container: av.container.InputContainer, stream: av.VideoStream, path: str
) -> Generator[tuple[av.VideoFrame, bool], None, None]:
    """Frames in order of time, and whether frames were lost right before.

    After damage the decoder restarts at the next key frame. A frame is held back until the next
    one is intact: the one before a lost frame may be damaged without an error.
    """
    held: tuple[av.VideoFrame, bool] | None = None
    fresh = waiting = False
    resumed_at: int | None = None
    with ffmpeg_errors() as messages:
        seen = _DamageSeen(container, messages)
        for packet in _packets(container, stream, seen):
            frames, damage = [], seen.since_last()
            if packet is None or packet.is_corrupt:
                damage, packet = damage or "a corrupt packet", None
            waiting = waiting or bool(damage)
            if packet is not None and waiting and packet.is_keyframe and packet.size:
                stream.codec_context.flush_buffers()
                waiting, resumed_at = False, packet.pts
            if packet is not None and not waiting:
                try:
                    frames = packet.decode()
                    broken = "a corrupt frame" if any(f.is_corrupt for f in frames) else ""
                except (av.FFmpegError, EOFError) as error:
                    raise_if_starved(error)
                    broken = str(error)
                if broken:
                    frames, damage, waiting = [], damage or broken, True
            if damage:
                seen.note(damage + _after(held))
                held, fresh = None, True
            at_end = packet is not None and not packet.size
            if at_end and ends_early(path, container.format.name):
                # The frames left in the decoder have gaps: they are not stored in their order.
                seen.note("the file ends early")
                frames, held = [], None
            for frame in frames:
                # Some frames after a key frame precede it in time and depend on lost frames.
                if resumed_at is not None and frame.pts is not None and frame.pts < resumed_at:
                    continue
                if held:
                    yield held
                held, fresh = (frame, fresh), False
    if held:
        yield held
    if seen.first:
        raise VideoError("damaged", seen.first)


def _after(held: tuple[av.VideoFrame, bool] | None) -> str:
    return f" after {held[0].time:.2f} s" if held and held[0].time is not None else ""


def _packets(
    container: av.container.InputContainer, stream: av.VideoStream, seen: _DamageSeen
) -> Iterator[av.Packet | None]:
    """The packets of a stream; None where the rest of the file cannot be read."""
    try:
        yield from container.demux(stream)
    except av.FFmpegError as error:
        seen.note(str(error))
        yield None


def sample_luma(
    path: str,
    info: VideoInfo,
    count: int,
    frames_fps: float | None = None,
    span_s: tuple[float, float | None] = (0.0, None),
) -> Iterator[NDArray[np.uint8]]:
    """Brightness (H, W) of frames as they are coded, 0 to 255, spread evenly over a video.

    If a time cannot be reached, the frame that the decoder finds is used instead.
    """
    start_s, end_s = span_s
    length_s = (info.duration_s if end_s is None else end_s) or start_s
    step_s = (length_s - start_s) / count
    times = [start_s + step_s * (index + 0.5) for index in range(count if step_s > 0 else 1)]
    if frames_fps is not None:
        files = images(path)
        last = len(files) - 1
        opened = ((str(files[min(last, int(t * frames_fps))]), 0.0) for t in times)
    else:
        opened = ((path, time_s) for time_s in times)
    reformatter = VideoReformatter()
    for file, time_s in opened:
        for frame in _frame_at(file, time_s):
            gray = reformatter.reformat(frame, format="gray", threads=1)
            yield np.asarray(gray.to_ndarray(), np.uint8)


def _frame_at(path: str, time_s: float) -> Iterator[av.VideoFrame]:
    """The first frame at or after a time, else the last one before it, if one decodes."""
    with open_video(path) as container:
        stream = video_stream(container)
        origin = _origin(stream) or 0.0
        if time_s:
            _seek(container, stream, origin + time_s)
        found = None
        try:
            for frame in container.decode(stream):
                found = frame
                if frame.time is None or frame.time >= origin + time_s:
                    break
        except (av.FFmpegError, EOFError):
            pass
        if found is not None:
            yield found
