"""Video files in and out: the only place that knows PyAV.

Frames are uint8 RGB arrays, (H, W, 3) or stacked (T, H, W, 3).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

Frames = NDArray[np.uint8]

SUFFIXES = frozenset(
    f".{name}"
    for name in "3gp avi flv gif m4v mkv mov mp4 mpeg mpg ogv ts webm wmv".split()  # noqa: SIM905
)
"""Files that are taken for videos, by the end of their names."""


class VideoError(Exception):
    """A file cannot be used as a video; `reason` is a short name for why."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


@dataclass(frozen=True)
class VideoInfo:
    """What a container says of its first video stream, read without decoding."""

    duration_s: float | None
    fps: float
    width: int
    height: int
    codec: str


def _open(path: str) -> av.container.InputContainer:
    try:
        return av.open(path, metadata_errors="replace")
    except FileNotFoundError as error:
        raise VideoError("missing", str(error)) from error
    except PermissionError as error:
        raise VideoError("no_permission", str(error)) from error
    except (av.FFmpegError, OSError) as error:
        raise VideoError("unreadable", str(error)) from error


def _stream(container: av.container.InputContainer) -> av.VideoStream:
    if not container.streams.video:
        raise VideoError("no_video_stream")
    stream = container.streams.video[0]
    # One thread a task: Ray runs a task on every core already.
    stream.thread_count = 1
    return stream


def probe(path: str) -> VideoInfo:
    """Read the header of a local file; raises `VideoError`."""
    with _open(path) as container:
        stream = _stream(container)
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise VideoError("no_frame_rate")
        if not stream.width or not stream.height:
            raise VideoError("no_frame_size")
        duration = None
        if stream.duration and stream.time_base:
            duration = float(stream.duration * stream.time_base)
        elif container.duration:
            duration = container.duration / 1e6
        codec = stream.codec_context.name
        return VideoInfo(duration, float(rate), stream.width, stream.height, codec)


def _short_side(width: int, height: int, size: int) -> tuple[int, int]:
    scale = size / min(width, height)
    return max(size, round(width * scale)), max(size, round(height * scale))


def read_frames(path: str, size: int) -> Iterator[tuple[float, Frames]]:
    """Decode a local file: seconds from its first frame, and the frame.

    The short side is resized to `size` (bilinear, widened when shrinking, so without
    aliasing) and the centre square is cut out. Raises `VideoError` after the last good frame
    where the file is damaged.
    """
    reformatter = VideoReformatter()
    with _open(path) as container:
        stream = _stream(container)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        first: float | None = None
        try:
            for index, frame in enumerate(_sound_frames(container, stream)):
                width, height = _short_side(frame.width, frame.height, size)
                small = reformatter.reformat(
                    frame, width, height, "rgb24", interpolation="BILINEAR", threads=1
                )
                top, left = (height - size) // 2, (width - size) // 2
                time = frame.time if frame.time is not None else float(index / rate)
                first = time if first is None else first
                array = np.asarray(small.to_ndarray(), np.uint8)
                yield time - first, array[top : top + size, left : left + size]
        except (av.FFmpegError, ValueError, MemoryError) as error:
            raise VideoError("damaged", str(error)) from error


def _sound_frames(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.VideoFrame]:
    """Decoded frames up to the first damage: decoders would conceal it and go on."""
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise VideoError("damaged", f"at {packet.pos} bytes")
        yield from packet.decode()


class Resampler:
    """Picks frames at a steady rate: at each tick, the frame that is on the screen then."""

    def __init__(self, fps: float) -> None:
        self.fps, self.ticks = fps, 0
        self._shown: Frames | None = None
        self._since_s, self._last_gap_s = 0.0, 0.0

    def push(self, time_s: float, frame: Frames) -> list[Frames]:
        """Take the next frame; returns the ticks that pass before it comes on the screen."""
        passed = self._until(time_s)
        self._last_gap_s, self._since_s = time_s - self._since_s, time_s
        self._shown = frame
        return passed

    def finish(self) -> list[Frames]:
        """The ticks of the last frame, which is shown for as long as the one before it."""
        return self._until(self._since_s + self._last_gap_s)

    def _until(self, time_s: float) -> list[Frames]:
        passed: list[Frames] = []
        # A small margin, so that rounding of time stamps does not shift a frame by a tick.
        while self._shown is not None and self.ticks / self.fps < time_s - 0.1 / self.fps:
            passed.append(self._shown)
            self.ticks += 1
        return passed


def _rgb(frame: av.VideoFrame, reformatter: VideoReformatter) -> Frames:
    # One converter with one thread for all frames: starting its threads takes longer than the
    # conversion of a small frame.
    return np.asarray(reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray(), np.uint8)


def _encode(frames_THWC: Frames, fps: float, codec: str, pixels: str, options: dict) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = pixels
        stream.thread_count = 1
        stream.options = options
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        reformatter = VideoReformatter()
        for array in frames_THWC:
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame = reformatter.reformat(frame, format=pixels, threads=1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def encode_lossless(frames_THWC: Frames, fps: float) -> bytes:
    """An MP4 whose pixels come back exactly: H.264 in RGB at quantiser 0.

    Lossy clips would spoil evaluation: codecs take more off some metrics than models do.
    """
    return _encode(frames_THWC, fps, "libx264rgb", "rgb24", {"qp": "0", "preset": "ultrafast"})


def encode_h264(frames_THWC: Frames, fps: float, crf: int = 14) -> bytes:
    """An MP4 that every browser plays; height and width must be even."""
    options = {"crf": str(crf), "preset": "veryfast", "movflags": "+faststart"}
    # x264's macroblock tree gives other bytes from time to time on processors with AVX-512.
    options["mbtree"] = "0"
    return _encode(frames_THWC, fps, "libx264", "yuv420p", options)


def decode_clip(data: bytes) -> Frames:
    """All frames (T, H, W, 3) of a clip held in memory; raises `VideoError`."""
    reformatter = VideoReformatter()
    try:
        with av.open(io.BytesIO(data), "r") as container:
            stream = _stream(container)
            frames = [_rgb(frame, reformatter) for frame in container.decode(stream)]
    except av.FFmpegError as error:
        raise VideoError("damaged", str(error)) from error
    return np.stack(frames)


def write_file(path: Path, frames_THWC: Frames, fps: float) -> None:
    """Encode with `encode_h264` into a local file."""
    path.write_bytes(encode_h264(frames_THWC, fps))
