"""Decoding users' video files to clean frames, with PyAV.

Everything here may hang, crash or use too much memory on a bad file: it runs in the decoding
process, which can be killed. Frames are uint8 RGB arrays (size, size, 3): upright, with square
pixels.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import chain
from typing import NamedTuple

import av

from pipelines.video import Frames
from pipelines.video.clean_frames import clean_frames, clean_frames_from, has_index
from pipelines.video.header import (
    frame_rate,
    half_frame_s,
    header_start_s,
    images,
    open_video,
    pixel_aspect,
    raise_if_starved,
    seconds,
    video_stream,
)
from pipelines.video.reasons import VideoError
from pipelines.video.shaper import Bars, Shaper

MAX_GAP_S = 10.0
"""A frame shown for longer than this ends a clip: time stamps may also jump by hours."""

MAX_REORDER_S = 0.5
"""Time stamps that go back by more than this are those of another recording, appended to one."""


class Picture(NamedTuple):
    """A clean frame and when it is displayed; no clip holds a `fresh` picture and earlier ones."""

    time_s: float
    until_s: float
    pixels: Frames
    fresh: bool = False


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
    and the centre square is cut out. Time counts from the first frame of the video. Frames that
    begin from `start_s` to `end_s` are read, give or take half a frame; before them comes the one
    that is displayed at `start_s`, if none begins then. After lost frames the next is `fresh`; if
    some of this part are lost, `VideoError("damaged")` follows the last frame.
    """
    end_s = math.inf if end_s is None else end_s
    if frames_fps is not None:
        decoded = _image_frames(path, frames_fps)
    else:
        decoded = _video_frames(path, start_s)
    shaper, damage = Shaper(size, bars), _Damage(start_s, end_s)
    shown: _Timed | None = None
    with closing(decoded):
        for following in chain(_snapped(decoded, start_s, end_s), [None]):
            if following and following.lost:
                damage.note(following, shown)
            if shown and (picture := _picture(shown, following, shaper, start_s, end_s)):
                yield picture
            if following is None or following.frame is None or following.time_s >= end_s:
                break
            pixels = following.frame.width * following.frame.height
            if max_pixels and pixels > max_pixels:
                text = f"{following.frame.width}x{following.frame.height}"
                raise VideoError("too_many_pixels", text, pixels)
            shown = following.after(shown)
    damage.report()


class _Timed(NamedTuple):
    """A decoded frame: when it begins, and for how long it is displayed if none follows.

    `lost` says why frames right before it are lost; at the end of the video there is no frame.
    """

    time_s: float
    frame: av.VideoFrame | None
    length_s: float = 0.0
    aspect: float = 1.0
    """Width of its pixels over their height."""
    lost: str = ""
    jump: str = ""
    """What the time stamps do right before it, if they do not go on."""
    fresh: bool = False
    half_frame_s: float = 0.0

    def after(self, earlier: _Timed | None) -> _Timed:
        """Marked as fresh if it does not continue what is shown before it.

        The last frame of all is not displayed for longer than the one before it: its length in
        the file may be that of another frame, which was decoded next to it.
        """
        if earlier is None:
            return self._replace(fresh=bool(self.lost))
        gap_s = self.time_s - earlier.time_s
        fresh = gap_s > MAX_GAP_S or bool(self.lost or self.jump)
        return self._replace(fresh=fresh, length_s=min(self.length_s or gap_s, gap_s))


Decoded = Generator[_Timed, None, None]


def _snapped(decoded: Decoded, *times_s: float) -> Iterator[_Timed]:
    """Sets the time of a frame to one that is less than half a frame away."""
    last_s = -math.inf
    for one in decoded:
        # A header may give any rate: half of the frame itself and of the one before are limits too.
        lengths_s = (one.length_s or math.inf, one.time_s - last_s)
        limit_s = min(one.half_frame_s, *(0.49 * length_s for length_s in lengths_s))
        near_s = [time_s for time_s in times_s if abs(one.time_s - time_s) < limit_s]
        last_s = one.time_s
        yield one._replace(time_s=near_s[0]) if near_s else one


def _picture(
    shown: _Timed, following: _Timed | None, shaper: Shaper, start_s: float, end_s: float
) -> Picture | None:
    """A frame that begins in a part of the video, or is displayed at its start."""
    until_s = shown.time_s + min(shown.length_s, MAX_GAP_S)
    if following:
        alone = following.after(shown).fresh
        until_s = min(until_s, following.time_s) if alone else following.time_s
    if shown.time_s < start_s and until_s <= start_s:
        return None
    assert shown.frame is not None
    pixels = shaper(shown.frame, shown.aspect)
    return Picture(shown.time_s, min(until_s, end_s), pixels, shown.fresh)


class _Damage:
    """Where frames of a part of a video are lost, and why."""

    def __init__(self, start_s: float, end_s: float) -> None:
        self.start_s, self.end_s = start_s, end_s
        self.first, self.count = "", 0

    def note(self, following: _Timed, last: _Timed | None) -> None:
        """Frames between two clean ones are lost; those of other parts do not matter."""
        since_s = last.time_s + last.length_s if last else 0.0
        if following.time_s <= self.start_s or since_s > self.end_s - following.half_frame_s:
            return
        after = f" after {since_s:.2f} s" if last else ""
        until = f", up to {following.time_s:.2f} s" if following.time_s > since_s else ""
        until = until if following.frame else ", to the end"
        self.first = self.first or following.lost + after + until + following.jump
        self.count += 1

    def report(self) -> None:
        """Raise `VideoError` if there is any."""
        if self.count:
            more = f", and in {self.count - 1} more places" if self.count > 1 else ""
            raise VideoError("damaged", self.first + more)


def _image_frames(folder: str, fps: float) -> Decoded:
    lost = ""
    for index, file in enumerate(images(folder)):
        try:
            with open_video(str(file)) as container:
                stream = video_stream(container)
                frame = next(iter(container.decode(stream)))
                aspect = pixel_aspect(stream)
        except (VideoError, av.FFmpegError, StopIteration) as error:
            raise_if_starved(error)
            lost = lost or f"{file.name} does not decode"
            continue
        yield _Timed(index / fps, frame, 1 / fps, aspect, lost, half_frame_s=0.49 / fps)
        lost = ""
    if lost:
        yield _Timed(math.inf, None, lost=lost)


def _video_frames(path: str, start_s: float) -> Decoded:
    with open_video(path) as container:
        stream = video_stream(container)
        aspect, half_s = pixel_aspect(stream), half_frame_s(stream)
        clock, size = _Clock(stream), None
        if start_s > 0 and has_index(container):
            clock.origin_s = _origin_s(path)
            place_s = clock.origin_s + start_s + half_s
            decoded = clean_frames_from(place_s, container, stream, path)
        else:
            decoded = clean_frames(container, stream, path)
        with closing(decoded):
            for frame, lost, stamp_s in decoded:
                if frame is None:
                    yield _Timed(math.inf, None, lost=lost)
                    return
                time_s, jump = clock.time_s(stamp_s, lost)
                if jump and size not in (None, (frame.width, frame.height)):
                    jump += f" and the size becomes {frame.width}x{frame.height}"
                size = frame.width, frame.height
                length_s = clock.length_s(frame)
                yield _Timed(time_s, frame, length_s, aspect, lost, jump, half_frame_s=half_s)


def _origin_s(path: str) -> float:
    """The time stamp of the first frame."""
    with open_video(path) as container:
        stream = video_stream(container)
        clock = _Clock(stream)
        with closing(clean_frames(container, stream, path)) as frames:
            for frame, lost, stamp_s in frames:
                if frame:
                    clock.time_s(stamp_s, lost)
                break
        return clock.origin_s or 0.0


class _Clock:
    """Times of the frames of a stream, from its first frame on and always increasing."""

    def __init__(self, stream: av.VideoStream) -> None:
        rate = frame_rate(stream)
        self.step_s = float(1 / rate) if rate else None
        self.origin_s: float | None = None
        self._header_s = header_start_s(stream)
        self._last_s: float | None = None

    def time_s(self, stamp_s: float | None, lost: str) -> tuple[float, str]:
        """When a frame begins, and how the time jumps there if it does."""
        jump = ""
        if stamp_s is not None and self.origin_s is None:
            # The header's may be that of a frame that is not displayed.
            self.origin_s = stamp_s if self._header_s is None or not lost else self._header_s
        time_s = None if stamp_s is None or self.origin_s is None else stamp_s - self.origin_s
        last_s = self._last_s
        if last_s is not None and time_s is not None and last_s - time_s > MAX_REORDER_S:
            jump = f"; there the time jumps back by {last_s - time_s:.2f} s"
        if time_s is None or (last_s is not None and time_s <= last_s):
            # Without a time stamp, or with one that goes backwards, frames are a step apart.
            if self.step_s is None:
                raise VideoError("no_frame_rate", "frames have no times")
            time_s = 0.0 if last_s is None else last_s + self.step_s
            if jump and stamp_s is not None:
                self.origin_s = stamp_s - time_s
        self._last_s = time_s
        return time_s, jump

    def length_s(self, frame: av.VideoFrame) -> float:
        """How long a frame is displayed by itself; 0 if nothing is known."""
        if frame.duration and frame.time_base:
            return seconds(frame.duration, frame.time_base)
        return self.step_s or 0.0
