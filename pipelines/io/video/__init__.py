"""Videos of our own, out and in again, with PyAV; `io/decoder` reads other people's.

Frames are uint8 RGB arrays, (H, W, 3) or stacked (T, H, W, 3).
"""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from pipelines.io.reasons import VideoError

Frames = NDArray[np.uint8]


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
            stream = container.streams.video[0]
            stream.thread_count = 1
            frames = [_rgb(frame, reformatter) for frame in container.decode(stream)]
    except av.FFmpegError as error:
        raise VideoError("damaged", str(error)) from error
    return np.stack(frames)


def write_file(path: Path, frames_THWC: Frames, fps: float) -> None:
    """Encode with `encode_h264` into a local file."""
    path.write_bytes(encode_h264(frames_THWC, fps))
