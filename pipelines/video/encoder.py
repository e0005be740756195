"""Videos to be played are encoded, and this project's own decoded.

`lossless` encodes clips, `decoder` reads the videos of users.

Frames are uint8 RGB arrays, (H, W, 3) or stacked (T, H, W, 3).
"""

from __future__ import annotations

import io
from fractions import Fraction
from itertools import islice

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from pipelines.video.reasons import VideoError

Frames = NDArray[np.uint8]


def _rgb(frame: av.VideoFrame, reformatter: VideoReformatter) -> Frames:
    # One converter with one thread for all frames: starting its threads takes longer than the
    # conversion of a small frame.
    return np.asarray(reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray(), np.uint8)


def encode_h264(frames_THWC: Frames, fps: float, crf: int = 14) -> bytes:
    """An MP4 that every browser plays; height and width must be even."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        # x264's macroblock tree gives other bytes from time to time on processors with AVX-512.
        stream.options = {
            "crf": str(crf), "preset": "veryfast", "movflags": "+faststart", "mbtree": "0"
        }  # fmt: skip
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        reformatter = VideoReformatter()
        for array in frames_THWC:
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            container.mux(stream.encode(reformatter.reformat(frame, format="yuv420p", threads=1)))
        container.mux(stream.encode())
    return buffer.getvalue()


def clip_shape(data: bytes) -> tuple[int, int, int]:
    """Frames, height and width of a video of `encode_h264`, by its header."""
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        return stream.frames, stream.height, stream.width


def decode_clip(data: bytes, step: int = 1) -> Frames:
    """All frames (T, H, W, 3) of a clip held in memory, or the first of every `step`; raises
    `VideoError`."""
    reformatter = VideoReformatter()
    try:
        with av.open(io.BytesIO(data), "r") as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            wanted = islice(container.decode(stream), 0, None, step)
            frames = [_rgb(frame, reformatter) for frame in wanted]
    except av.FFmpegError as error:
        raise VideoError("damaged", str(error)) from error
    return np.stack(frames)


def decode_clips(clips: list[bytes]) -> Frames:
    """Frames (N, T, H, W, 3) of clips of one size."""
    return np.stack([decode_clip(clip) for clip in clips])
