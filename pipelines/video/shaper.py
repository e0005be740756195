"""Shaping decoded frames to upright squares with square pixels and the colours of a screen."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import (
    ColorPrimaries,
    ColorRange,
    Colorspace,
    ColorTrc,
    VideoReformatter,
)
from numpy.typing import NDArray

from pipelines.video import Frames

HD_HEIGHT, HD_WIDTH = 720, 1280
"""From this size on, video without a colour matrix has that of HDTV (BT.709), below that of SDTV
(BT.601), as players assume."""

HDR = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
"""Transfer functions of high dynamic range: PQ and HLG (BT.2100)."""

UNSPECIFIED = 2
"""In the numbering of ITU-T H.273, as below."""
MATRICES = {n: n for n in (0, 1, UNSPECIFIED, 4, 5, 6, 7, 9)} | {10: 9}
"""Matrices that FFmpeg converts; others are reserved or unknown, or a header is damaged."""
TRANSFERS = frozenset((1, UNSPECIFIED, *range(4, 9), *range(11, 19)))
"""Transfer functions that it converts."""
PRIMARIES = frozenset((1, UNSPECIFIED, *range(4, 13), 22))
"""Primaries that it converts; with some others it crashes."""


FULL_RANGE = ((np.arange(256) - 16) * 255 / 219).round().clip(0, 255).astype(np.uint8)
"""Levels of limited range (BT.709, section 3) to those of full range."""


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
        width, height = _short_side(wide * aspect, high, self.size)
        part = self._filtered(frame) if self.bars or frame.interlaced_frame else frame
        part.colorspace = MATRICES.get(frame.colorspace, UNSPECIFIED)
        matrix = Colorspace.ITU709 if _is_unmarked_hd(frame) else None
        wide_colour = _is_wide_colour(frame)
        # Planar, not packed RGB: for packed RGB FFmpeg is slower and halves the colours' horizontal
        # resolution once more.
        small = self._reformatter.reformat(
            part,
            width,
            height,
            "yuv444p10le" if wide_colour else "gbrp",
            src_colorspace=matrix,
            interpolation="BILINEAR",
            threads=1,
        )
        planes = self._square(small)
        if wide_colour:
            planes = self._square(_in_screen_colours(planes, frame))
        pixels = np.empty((self.size, self.size, 3), np.uint8)
        for channel, plane in zip((1, 2, 0), planes, strict=True):
            pixels[..., channel] = plane
        if not wide_colour and _is_limited_grey(frame):
            pixels = FULL_RANGE[pixels]
        return _upright(pixels, frame)

    def _square(self, frame: av.VideoFrame) -> list[NDArray]:
        """The centre square of each plane."""
        top, left = (frame.height - self.size) // 2, (frame.width - self.size) // 2
        kind = np.uint16 if frame.format.components[0].bits > 8 else np.uint8
        squares = []
        for plane in frame.planes:
            rows = np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)
            squares.append(rows[top : top + self.size, left : left + self.size])
        return squares

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


def _is_unmarked_hd(frame: av.VideoFrame) -> bool:
    large = frame.height >= HD_HEIGHT or frame.width >= HD_WIDTH
    return (
        large
        and not frame.format.is_rgb
        and MATRICES.get(frame.colorspace, UNSPECIFIED) == UNSPECIFIED
    )


def _is_limited_grey(frame: av.VideoFrame) -> bool:
    """Whether black is 16 and white 235 in a format of luma alone: FFmpeg takes all of these for
    full range."""
    luma_alone = len(frame.format.components) == 1 and not frame.format.has_palette
    return luma_alone and frame.color_range == ColorRange.MPEG


def _is_wide_colour(frame: av.VideoFrame) -> bool:
    return frame.color_trc in HDR or frame.color_primaries == ColorPrimaries.BT2020


def _in_screen_colours(planes: list[NDArray], tags: av.VideoFrame) -> av.VideoFrame:
    """A square 10-bit frame in the colours of HDTV: BT.709, standard dynamic range.

    FFmpeg maps the white of HDR graphics, 203 cd/m² (ITU-R BT.2408), to white.
    """
    size = len(planes[0])
    frame = av.VideoFrame(size, size, "yuv444p10le")
    for plane, square in zip(frame.planes, planes, strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint16).reshape(size, -1)
        rows[:, :size] = square
    frame.colorspace = MATRICES.get(tags.colorspace, UNSPECIFIED)
    frame.color_range = tags.color_range
    transfer, primaries = tags.color_trc, tags.color_primaries
    frame.color_trc = transfer if transfer in TRANSFERS else ColorTrc.BT709
    frame.color_primaries = primaries if primaries in PRIMARIES else ColorPrimaries.BT2020
    colours = frame.colorspace, frame.color_range, frame.color_trc, frame.color_primaries
    return _colour_converter(size, *colours).reformat(
        frame,
        format="gbrp",
        dst_color_trc=ColorTrc.BT709,
        dst_color_primaries=ColorPrimaries.BT709,
        threads=1,
    )


@lru_cache(maxsize=16)
def _colour_converter(size: int, *colours: int) -> VideoReformatter:
    """It makes its tables with its first frame, which takes a second, and anew with the first of
    other colours: one serves all videos that have the same."""
    return VideoReformatter()


def _upright(square: Frames, frame: av.VideoFrame) -> Frames:
    """Turned and mirrored as the frame's display matrix says."""
    found: Any = frame.side_data  # Its stub says that it is a TypedDict.
    # Most frames have none, and what is not there is found out by an exception.
    if len(found) and SideData.DISPLAYMATRIX in found:
        matrix = found[SideData.DISPLAYMATRIX]
        # Rows of 3: how much x and y on the screen grow with x, and with y, in the frame.
        (a, b, _), (c, d, _), _ = np.frombuffer(memoryview(matrix), np.int32).reshape(3, 3).tolist()
        if abs(b) + abs(c) > abs(a) + abs(d):
            square, a, d = square.swapaxes(0, 1), c, b
        square = square[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(square, np.uint8)


def _short_side(width: float, height: float, size: int) -> tuple[int, int]:
    scale = size / min(width, height)
    return max(size, round(width * scale)), max(size, round(height * scale))
