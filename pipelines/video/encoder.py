"""Encoding and decoding this project's own videos, with PyAV; `decoder` reads those of users.

Frames are uint8 RGB arrays, (H, W, 3) or stacked (T, H, W, 3).
"""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from pipelines.video.reasons import VideoError

Frames = NDArray[np.uint8]


def _rgb(frame: av.VideoFrame, reformatter: VideoReformatter) -> Frames:
    # One converter with one thread for all frames: starting its threads takes longer than the
    # conversion of a small frame.
    return np.asarray(reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray(), np.uint8)


class LosslessEncoder:
    """Makes MP4s that decode to exactly the same pixels: H.264 in RGB at quantiser 0.

    Lossy clips would distort evaluation: codecs change some metrics more than models do. One
    encoder serves all clips of a size and rate, each of which begins with a key frame: opening
    an encoder takes a quarter as long as encoding a clip. The same clips in the same order give
    the same bytes.
    """

    OPTIONS = MappingProxyType(
        # No frame is delayed or reordered; a forced key frame depends on no earlier frame.
        {"qp": "0", "preset": "ultrafast", "tune": "zerolatency", "forced-idr": "1"}
    )

    def __init__(self, height: int, width: int, fps: float) -> None:
        self.rate = Fraction(fps).limit_denominator(1001)
        self.step = 1 / self.rate
        codec = av.CodecContext.create("libx264rgb", "w")
        assert isinstance(codec, av.VideoCodecContext)
        codec.height, codec.width, codec.pix_fmt = height, width, "rgb24"
        codec.framerate, codec.time_base, codec.thread_count = self.rate, self.step, 1
        codec.options = dict(self.OPTIONS)
        codec.flags |= av.codec.context.Flags.bitexact
        self._codec, self._frames = codec, 0

    def encode(self, frames_THWC: Frames) -> bytes:
        """The MP4 of one clip."""
        start, packets = self._frames, []
        for array in np.ascontiguousarray(frames_THWC):
            frame = av.VideoFrame.from_numpy_buffer(array, format="rgb24")
            frame.pict_type = PictureType.I if self._frames == start else PictureType.NONE
            frame.pts, frame.time_base = self._frames, self.step
            packets += self._codec.encode(frame)
            self._frames += 1
        assert len(packets) == len(frames_THWC), f"{len(packets)} packets"
        return self._mp4(packets, start)

    def _mp4(self, packets: list[av.Packet], start: int) -> bytes:
        buffer, codec = io.BytesIO(), self._codec
        with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            size = {"height": codec.height, "width": codec.width}
            stream = container.add_mux_stream("h264", self.rate, time_base=self.step, **size)
            for packet in packets:
                assert packet.pts is not None and packet.dts is not None
                packet.stream = stream
                packet.pts, packet.dts = packet.pts - start, packet.dts - start
                container.mux(packet)
        return buffer.getvalue()


def encode_lossless(frames_THWC: Frames, fps: float) -> bytes:
    """One clip, encoded by a new `LosslessEncoder`."""
    _, height, width, _ = frames_THWC.shape
    return LosslessEncoder(height, width, fps).encode(frames_THWC)


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


def decode_clips(clips: list[bytes]) -> Frames:
    """Frames (N, T, H, W, 3) of clips of one size."""
    return np.stack([decode_clip(clip) for clip in clips])


def write_file(path: Path, frames_THWC: Frames, fps: float) -> None:
    """Encode with `encode_h264` into a local file."""
    path.write_bytes(encode_h264(frames_THWC, fps))
