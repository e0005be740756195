"""The header of a video, read with PyAV before anything is decoded."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av

from pipelines.video.file_names import is_hidden
from pipelines.video.reasons import VideoError
from pipelines.video.remote import RemoteFile, is_remote, opened

_CONTAINERS = """
mov mp4 m4a 3gp 3g2 mj2 matroska webm avi mpegts mpeg flv live_flv asf asf_o ogg mxf nut ivf obu
gif apng yuv4mpegpipe dv wtv gxf rm kux dhav ty mlv r3d mods
"""
_ELEMENTARY_STREAMS = """
mpegvideo m4v h261 h263 h264 hevc vvc evc vc1 vc1test cavsvideo avs2 avs3 dirac dnxhd mjpeg
mjpeg_2000 apv
"""
_OLD_FORMATS = """
nsv nuv swf pva pmp psxstr thp vivo roq film_cpk flic flv 4xm idcin smk bink ea mv mvi vmd dxa rpl
filmstrip cine
"""
_IMAGES = """
image2 image2pipe bmp_pipe gif_pipe jpeg_pipe jpegls_pipe jpegxl_pipe png_pipe webp_pipe
"""
IMAGES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp"))
"""Suffixes of files that are the frames of a folder."""

FORMATS = tuple(
    _CONTAINERS.split() + _ELEMENTARY_STREAMS.split() + _OLD_FORMATS.split() + _IMAGES.split()
)
"""FFmpeg's names of the formats that are opened. Others are lists, such as ffconcat, HLS or SDP:
they would read other files than the one that is listed."""

PEEKED_PACKETS = 64
"""Packets that are read to tell moving streams from stills, if there are several streams."""

RATES = (0.05, 1000.0)
"""Range of plausible frame rates."""


@dataclass(frozen=True)
class VideoInfo:
    """The header of a container and its video stream."""

    duration_s: float | None
    fps: float | None
    width: int
    height: int
    codec: str


@contextmanager
def ffmpeg_errors() -> Iterator[list]:
    """Errors that FFmpeg logs within the context: (level, name of the component, text)."""
    skipped = av.logging.get_skip_repeated()
    av.logging.set_skip_repeated(False)
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture(local=False) as messages:
            yield messages
    finally:
        av.logging.set_level(None)
        av.logging.set_skip_repeated(skipped)


def check_place(path: str, is_folder: bool) -> None:
    """Raise `VideoError` unless there is a file to open, or a folder where one is wanted.

    This is checked before opening: to open a pipe would block. A remote file is opened as it is.
    """
    if is_remote(path):
        return
    mode = os.stat(path).st_mode
    if is_folder:
        os.listdir(path)
    elif stat.S_ISDIR(mode):
        os.listdir(path)  # One that may not be read is an error of its own.
        raise VideoError("not_a_file", "a folder")
    elif not stat.S_ISREG(mode):
        raise VideoError("not_a_file", "no regular file")
    else:
        with open(path, "rb") as file:
            if not file.read(1):
                raise VideoError("empty")


def open_video(path: str) -> av.container.InputContainer:
    """Open a file; raises `VideoError`, also for formats that are not in `FORMATS`."""
    options = {
        "format_whitelist": ",".join(FORMATS),
        "protocol_whitelist": "file",
        "pattern_type": "none",  # A "%03d" in the name of an image is no number of a sequence.
    }
    try:
        file: Any = RemoteFile(path) if is_remote(path) else path
        return av.open(file, metadata_errors="replace", options=options)
    except FileNotFoundError as error:
        raise VideoError("missing", str(error)) from error
    except PermissionError as error:
        raise VideoError("no_permission", str(error)) from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise_if_starved(error)
        refused = re.search(r"\[(\S+)\] Format not on whitelist", str(error))
        detail = f"the format {refused[1]} is not accepted" if refused else str(error)
        raise VideoError("unreadable", detail) from error


def raise_if_starved(error: Exception) -> None:
    """Report a lack of memory as such, not as damage."""
    if isinstance(error, MemoryError):
        raise VideoError("out_of_memory", str(error)) from error


def video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The stream to decode: moving rather than still, FFmpeg's default, the largest; never a cover.

    Of equals it is the first.
    """
    cover, default = av.stream.Disposition.attached_pic, av.stream.Disposition.default
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        raise VideoError("no_video_stream")
    # PyAV knows no size, and nothing else, of a stream without a decoder.
    decodable = [s for s in streams if s.codec_context is not None]
    if not decodable:
        raise VideoError("unknown_codec")
    streams = decodable
    moving = _moving(container.name) if len(streams) > 1 else set()

    def rank(stream: av.VideoStream) -> tuple[bool, bool, int]:
        is_default = bool(stream.disposition & default)
        return stream.index in moving, is_default, stream.width * stream.height

    stream = max(streams, key=rank)
    # One thread a task: Ray runs a task on every core already.
    stream.thread_count = 1
    # Damage is reported instead of concealed.
    stream.codec_context.options = {"err_detect": "explode"}
    return stream


def _moving(path: str) -> set[int]:
    """Indices of the video streams with several packets near the start: a cover has only one."""
    counts: Counter[int] = Counter()
    with open_video(path) as container:
        packets = islice(container.demux(*container.streams.video), PEEKED_PACKETS)
        try:
            counts.update(packet.stream_index for packet in packets if packet.size)
        except av.FFmpegError as error:  # What was counted before the damage tells enough.
            raise_if_starved(error)
    return {index for index, count in counts.items() if count > 1}


def frame_rate(stream: av.VideoStream) -> Fraction | None:
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and RATES[0] <= rate <= RATES[1]:
            return Fraction(rate)
    return None


def seconds(ticks: int, time_base: Fraction) -> float:
    """A time or length, rounded as their product is; which takes ten times as long."""
    return ticks * time_base.numerator / time_base.denominator


def half_frame_s(stream: av.VideoStream) -> float:
    """How far two times of the same frame may be apart: a little less than half a frame.

    At a variable rate the shortest frames count.
    """
    known = (stream.average_rate, stream.guessed_rate, stream.base_rate)
    rates = [min(float(rate), RATES[1]) for rate in known if rate and rate >= RATES[0]]
    return 0.49 / max(rates, default=RATES[1])


def header_start_s(stream: av.VideoStream) -> float | None:
    """Time stamp of the first frame by the header, if it gives one."""
    if stream.start_time is None or not stream.time_base:
        return None
    return seconds(stream.start_time, stream.time_base)


def images(folder: str) -> list[Path]:
    """The frames of a folder in their order: `frame_2` comes before `frame_10`."""
    files = [
        file
        for file in Path(folder).iterdir()
        if file.suffix.lower() in IMAGES and not is_hidden(file.name)
    ]
    return sorted(files, key=lambda file: _natural(file.name))


def _natural(name: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(p), p) if p.isdecimal() else (1, 0, p) for p in parts if p]


def probe(path: str, frames_fps: float | None = None) -> VideoInfo:
    """Read the header of a file, or of a folder of images; raises `VideoError`."""
    if frames_fps is not None:
        files = images(path)
        if not files:
            raise VideoError("empty", path)
        first = _first_sound(files)
        return VideoInfo(len(files) / frames_fps, frames_fps, first.width, first.height, "images")
    with ffmpeg_errors() as messages, open_video(path) as container:
        stream = video_stream(container)
        if not stream.width or not stream.height:
            raise _without_size(" ".join(text for _, _, text in messages))
        duration = None
        if stream.duration and stream.time_base:
            duration = seconds(stream.duration, stream.time_base)
        elif container.duration:
            duration = container.duration / 1e6
            if "matroska" in container.format.name and _counts_from_zero(path):
                duration -= max(0, container.start_time or 0) / 1e6
        if duration is not None and not duration > 0:
            duration = None  # A damaged header may give anything.
        rate = frame_rate(stream)
        codec = {"libdav1d": "av1"}.get(stream.codec_context.name, stream.codec_context.name)
        fps = None if rate is None else float(rate)
        return VideoInfo(duration, fps, stream.width, stream.height, codec)


def _first_sound(files: Sequence[Path]) -> VideoInfo:
    """The header of the first image that has one; if none has, the error of the first."""
    first: VideoError | None = None
    for file in files:
        try:
            return probe(str(file))
        except VideoError as error:
            first = first or error.bare()
    assert first
    raise first


def length_is_estimated(path: str) -> bool:
    """Whether what FFmpeg tells as the length is the last time stamp less the first one: where the
    clock jumps, as in joined recordings, that is not how long the video plays."""
    with open_video(path) as container:
        return container.format.name in ("mpegts", "mpeg")


def _counts_from_zero(path: str) -> bool:
    """Whether FFmpeg wrote a Matroska: it counts the length from 0, others from the first frame.

    Tags may be copied from another file; the element `MuxingApp` is of this one.
    """
    with opened(path) as file:
        return bool(re.search(rb"\x4d\x80.Lavf", file.read(4096), re.DOTALL))


def _without_size(messages: str) -> VideoError:
    """The error of a missing size: FFmpeg drops a size that it cannot handle, and only logs it."""
    size = re.search(r"Picture size (\d+)x(\d+) is invalid", messages)
    if size:
        return VideoError("too_many_pixels", f"{size[1]}x{size[2]}", int(size[1]) * int(size[2]))
    return VideoError("no_frame_size")


def pixel_aspect(stream: av.VideoStream) -> float:
    """Width of a pixel over its height; implausible values count as square."""
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    return float(ratio) if ratio and Fraction(1, 5) <= ratio <= 5 else 1.0
