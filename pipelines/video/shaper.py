"""Shaping decoded frames to upright squares with square pixels, by PyAV."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from pipelines.video import Frames


class Bars(NamedTuple):
    """Black bars around the picture, in pixels of the coded frame."""

    left: int
    top: int
    right: int
    bottom: int


class Shaper:
    """Turns decoded frames into upright squares with square pixels."""

    def __init__(self, size: int, bars: Bars | None) -> None:
        self.size, self.bars = size, bars
        # One converter for all frames, with one thread: starting threads takes longer than the
        # conversion of a small frame.
        self._reformatter = VideoReformatter()
        self._graphs: dict[tuple, av.filter.Graph] = {}

    def __call__(self, frame: av.VideoFrame, aspect: float) -> Frames:
        """`aspect` is the width of a pixel over its height."""
        left, top, right, bottom = self.bars or Bars(0, 0, 0, 0)
        wide, high = frame.width - left - right, frame.height - top - bottom
        if self.bars or frame.interlaced_frame:
            frame = self._filtered(frame)
        width, height = _short_side(wide * aspect, high, self.size)
        # Planar, not packed RGB: for packed RGB FFmpeg is slower and halves the colours' horizontal
        # resolution once more.
        small = self._reformatter.reformat(
            frame, width, height, "gbrp", interpolation="BILINEAR", threads=1
        )
        square = self._square(small)
        turned = np.rot90(square, round(frame.rotation / 90))
        return np.ascontiguousarray(turned, np.uint8)

    def _square(self, frame: av.VideoFrame) -> Frames:
        """The centre square of a planar frame."""
        square = np.empty((self.size, self.size, 3), np.uint8)
        top, left = (frame.height - self.size) // 2, (frame.width - self.size) // 2
        for channel, plane in zip((1, 2, 0), frame.planes, strict=True):
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
            square[..., channel] = rows[top : top + self.size, left : left + self.size]
        return square

    def _filtered(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Cut bars off, and of an interlaced frame take the upper field: half of its lines."""
        key = (frame.width, frame.height, frame.format.name, frame.interlaced_frame)
        if key not in self._graphs:
            self._graphs[key] = self._graph(frame)
        self._graphs[key].push(frame)
        out = self._graphs[key].pull()
        assert isinstance(out, av.VideoFrame)
        return out

    def _graph(self, frame: av.VideoFrame) -> av.filter.Graph:
        graph = av.filter.Graph()
        nodes = [
            graph.add_buffer(
                width=frame.width,
                height=frame.height,
                format=frame.format,
                time_base=frame.time_base or Fraction(1, 1000),
            )
        ]
        if self.bars:
            left, top, right, bottom = self.bars
            size = f"w=iw-{left + right}:h=ih-{top + bottom}"
            nodes.append(graph.add("crop", f"{size}:x={left}:y={top}:exact=1"))
        if frame.interlaced_frame:
            nodes.append(graph.add("field", "type=top"))
        nodes.append(graph.add("buffersink"))
        graph.link_nodes(*nodes).configure()
        return graph


def _short_side(width: float, height: float, size: int) -> tuple[int, int]:
    scale = size / min(width, height)
    return max(size, round(width * scale)), max(size, round(height * scale))
