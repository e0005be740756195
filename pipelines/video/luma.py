"""Samples of the brightness of a video, for what needs a few frames of it only."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import closing
from itertools import repeat

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from pipelines.video.clean_frames import (
    CleanFrames,
    clean_frames,
    clean_frames_from,
    has_index,
)
from pipelines.video.header import VideoInfo, header_start_s, images, open_video, video_stream


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
        found: Iterator[av.VideoFrame] = (
            frame
            for time_s in times
            for frame in _frames_at(str(files[min(last, int(time_s * frames_fps))]), [0.0])
        )
    else:
        found = _frames_at(path, times)
    reformatter = VideoReformatter()
    for frame in found:
        gray = reformatter.reformat(frame, format="gray", threads=1)
        yield np.asarray(gray.to_ndarray(), np.uint8)


def _frames_at(path: str, times: list[float]) -> Iterator[av.VideoFrame]:
    """For each of the times, in order, the first clean frame at or after it, else the last one
    before it, if there is one.

    Each is sought where the format has an index. Where it has none, one pass takes all.
    """
    for number, time_s in enumerate(times):
        with open_video(path) as container:
            stream = video_stream(container)
            origin_s = header_start_s(stream) or 0.0
            if time_s and has_index(container):
                decoded = clean_frames_from(origin_s + time_s, container, stream, path)
                yield from _first_from(decoded, [origin_s + time_s])
            else:
                decoded = clean_frames(container, stream, path)
                yield from _first_from(decoded, [origin_s + each for each in times[number:]])
                return


def _first_from(decoded: CleanFrames, stamps: list[float]) -> Iterator[av.VideoFrame]:
    """For each of the time stamps, in order, the frame that `_frames_at` takes."""
    found, left = None, deque(stamps)
    with closing(decoded):
        for frame, _, shown_s in decoded:
            found = frame or found
            while left and (shown_s is None or shown_s >= left[0]):
                left.popleft()
                if found:
                    yield found
            if not left:
                return
    if found:
        yield from repeat(found, len(left))
