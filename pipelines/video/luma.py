"""Samples of the brightness of a video, for what needs a few frames of it only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from pipelines.video.clean_frames import clean_frames, clean_frames_from, has_index
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
        opened = ((str(files[min(last, int(t * frames_fps))]), 0.0) for t in times)
    else:
        opened = ((path, time_s) for time_s in times)
    reformatter = VideoReformatter()
    for file, time_s in opened:
        for frame in _frame_at(file, time_s):
            gray = reformatter.reformat(frame, format="gray", threads=1)
            yield np.asarray(gray.to_ndarray(), np.uint8)


def _frame_at(path: str, time_s: float) -> Iterator[av.VideoFrame]:
    """The first clean frame at or after a time, else the last one before it, if there is one."""
    with open_video(path) as container:
        stream = video_stream(container)
        stamp_s = (header_start_s(stream) or 0.0) + time_s
        if time_s and has_index(container):
            decoded = clean_frames_from(stamp_s, container, stream, path)
        else:
            decoded = clean_frames(container, stream, path)
        found = None
        with closing(decoded):
            for frame, _, shown_s in decoded:
                found = frame or found
                if shown_s is None or shown_s >= stamp_s:
                    break
        if found:
            yield found
