"""Lossless clips: Matroska files that decode to exactly the same pixels.

Lossy clips would distort evaluation: codecs change some metrics more than models do.

Where a camera moves, or its sensor is noisy, few samples are those of the frame before. HuffYUV,
which codes each frame by itself, then makes smaller files than H.264, and takes less than half the
time to encode and to decode. Where most samples repeat, as in animation, games and screens, H.264
takes a sixth to two thirds of the bytes. docs/LOG.md has the figures.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property
from types import MappingProxyType

import av
import numpy as np
from av.video.frame import PictureType

from pipelines.video import Frames, matroska

STILL = 0.4
"""The share of samples that repeat those of the frame before, from which on a clip is H.264."""


class LosslessEncoder:
    """Encodes clips of one size and rate, each by the codec that suits it.

    One encoder serves all clips of a video, as opening one takes as long as encoding some frames.
    The same clips in the same order give the same bytes.
    """

    def __init__(self, height: int, width: int, fps: float) -> None:
        self._codecs = _HuffYUV(height, width, fps), _H264(height, width, fps)

    def encode(self, frames_THWC: Frames) -> bytes:
        """The Matroska file of one clip."""
        frames_THWC = np.ascontiguousarray(frames_THWC)
        huffyuv, h264 = self._codecs
        codec = h264 if still_share(frames_THWC) >= STILL else huffyuv
        return codec.encode(frames_THWC)


def encode_lossless(frames_THWC: Frames, fps: float) -> bytes:
    """One clip, encoded by a new `LosslessEncoder`."""
    _, height, width, _ = frames_THWC.shape
    return LosslessEncoder(height, width, fps).encode(frames_THWC)


def still_share(frames_THWC: Frames) -> float:
    """The share of samples that repeat those of the frame before; 0 of a single frame."""
    if len(frames_THWC) < 2:
        return 0.0
    same = frames_THWC[1:] == frames_THWC[:-1]
    return np.count_nonzero(same) / same.size


class _Codec:
    """An encoder of PyAV that gives a packet for each frame, opened when it is first used."""

    NAME: str
    OPTIONS: Mapping[str, str]

    def __init__(self, height: int, width: int, fps: float) -> None:
        self.height, self.width, self.fps = height, width, fps
        self.rate = Fraction(fps).limit_denominator(1001)
        self.frames = 0
        """How many were encoded so far."""

    @cached_property
    def context(self) -> av.VideoCodecContext:
        context = av.CodecContext.create(self.NAME, "w")
        assert isinstance(context, av.VideoCodecContext)
        context.height, context.width, context.pix_fmt = self.height, self.width, "rgb24"
        context.framerate, context.time_base = self.rate, 1 / self.rate
        context.thread_count, context.options = 1, dict(self.OPTIONS)
        context.flags |= av.codec.context.Flags.bitexact
        context.open()
        return context

    def packets(self, frames_THWC: Frames) -> list[av.Packet]:
        """The packets of a clip, the first of which is a key frame; times count on."""
        start, packets = self.frames, []
        for array in frames_THWC:
            frame = av.VideoFrame.from_numpy_buffer(array, format="rgb24")
            frame.pict_type = PictureType.I if self.frames == start else PictureType.NONE
            frame.pts = self.frames  # In the time base of the context.
            packets += self.context.encode(frame)
            self.frames += 1
        assert len(packets) == len(frames_THWC), f"{len(packets)} packets"
        return packets


class _HuffYUV(_Codec):
    """HuffYUV in RGB: each sample is told by its neighbours to the left and above."""

    NAME = "huffyuv"
    OPTIONS = MappingProxyType({"pred": "plane"})

    def encode(self, frames_THWC: Frames) -> bytes:
        frames = [bytes(packet) for packet in self.packets(frames_THWC)]
        extradata = self.context.extradata
        assert extradata
        codec = matroska.Codec(b"HFYU", self.height, self.width, 24, extradata)
        return matroska.matroska(frames, self.fps, codec)


class _H264(_Codec):
    """H.264 in RGB at quantiser 0. No frame is delayed or reordered, and a forced key frame depends
    on none before it."""

    NAME = "libx264rgb"
    OPTIONS = MappingProxyType(
        {"qp": "0", "preset": "ultrafast", "tune": "zerolatency", "forced-idr": "1"}
    )

    def encode(self, frames_THWC: Frames) -> bytes:
        start, buffer = self.frames, io.BytesIO()
        with av.open(buffer, "w", format="matroska", options={"fflags": "+bitexact"}) as container:
            size = {"height": self.height, "width": self.width}
            stream = container.add_mux_stream("h264", self.rate, time_base=1 / self.rate, **size)
            for packet in self.packets(frames_THWC):
                assert packet.pts is not None and packet.dts is not None
                packet.stream = stream
                packet.pts, packet.dts = packet.pts - start, packet.dts - start
                container.mux(packet)
        return buffer.getvalue()
