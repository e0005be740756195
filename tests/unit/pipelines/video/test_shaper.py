"""Colours: which matrix, transfer function and primaries a frame has, and what becomes of it."""

import av
import numpy as np
import pytest

from pipelines.video.shaper import Bars, Shaper
from tests.odd_videos import BT709_TO_BT2020, bt2020_planes, pq_code, pq_frame, ten_bit_frame

BT601, BT709 = (0.299, 0.114), (0.2126, 0.0722)
"""Shares of red and blue in the brightness."""
COLOURS = ((200, 30, 30), (30, 180, 30), (30, 30, 200), (235, 235, 235), (16, 16, 16))


def yuv(rgb: tuple[int, int, int], matrix: tuple[float, float], height: int) -> av.VideoFrame:
    """A frame of one colour, 16:9, without tags."""
    (red, blue), width = matrix, height * 16 // 9
    r, g, b = np.array(rgb) / 255
    y = red * r + (1 - red - blue) * g + blue * b
    levels = 16 + 219 * y, 128 + 112 * (b - y) / (1 - blue), 128 + 112 * (r - y) / (1 - red)
    planes = [np.full((height, width), round(level), np.uint8) for level in levels]
    return av.VideoFrame.from_ndarray(np.stack(planes), format="yuv444p")


def shaped(frame: av.VideoFrame, bars: Bars | None = None) -> list[int]:
    return Shaper(32, bars)(frame, 1.0)[16, 16].tolist()


@pytest.mark.parametrize("rgb", COLOURS)
@pytest.mark.parametrize("bars", [None, Bars(16, 8, 16, 8)])
@pytest.mark.parametrize("interlaced", [False, True])
def test_colours_without_and_with_tags(
    rgb: tuple[int, int, int], bars: Bars | None, interlaced: bool
) -> None:
    cases = [
        (yuv(rgb, BT601, 360), None),
        (yuv(rgb, BT709, 720), None),
        (yuv(rgb, BT709, 360), 1),
        (yuv(rgb, BT601, 720), 6),
    ]
    for frame, tag in cases:
        frame.colorspace = tag or 2
        if interlaced:
            frame = as_interlaced(frame)
        assert shaped(frame, bars) == pytest.approx(rgb, abs=3), (frame, tag)


@pytest.mark.parametrize("form", ["gray", "gray10le"])
def test_grey_of_limited_range(form: str) -> None:
    """Monochrome video, as AV1 and HEVC have it; pictures are of full range."""
    shift = 2 if form == "gray10le" else 0
    for limited, levels in ((True, (0, 128, 255)), (False, (16, 126, 235))):
        found = []
        for level in (16, 126, 235):
            kind = np.uint16 if shift else np.uint8
            frame = av.VideoFrame.from_ndarray(np.full((64, 96), level << shift, kind), format=form)
            frame.color_range = 1 if limited else 2
            found.append(shaped(frame)[0])
        assert found == pytest.approx(levels, abs=1)


def as_interlaced(frame: av.VideoFrame) -> av.VideoFrame:
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=1
    )
    graph.link_nodes(source, graph.add("setfield", "tff"), graph.add("buffersink")).configure()
    graph.push(frame)
    marked = graph.pull()
    assert isinstance(marked, av.VideoFrame) and marked.interlaced_frame
    marked.colorspace = frame.colorspace
    return marked


@pytest.mark.parametrize("rgb", COLOURS)
def test_pq_is_mapped_to_the_colours_of_a_screen(rgb: tuple[int, int, int]) -> None:
    frame = pq_frame(np.full((64, 96, 3), rgb, np.uint8))
    # FFmpeg compresses saturated colours a little.
    assert shaped(frame) == pytest.approx(rgb, abs=20 if max(rgb) > min(rgb) else 8)


def test_white_and_grey_in_hlg() -> None:
    """ITU-R BT.2408, table 1: white is at 0.75 of the signal, a grey card of 18 % at 0.38."""
    levels = []
    for signal in (0.0, 0.38, 0.75):
        planes = bt2020_planes(np.full((64, 96, 3), signal))
        levels.append(shaped(ten_bit_frame(planes, transfer=18))[0])
    black, grey, white = levels
    assert black <= 2 and white >= 250
    # 18 % in BT.709 are 0.41 to 0.49, by its curve or by that of a screen.
    assert 95 <= grey <= 130


def test_wide_colours_of_standard_range() -> None:
    """The red of BT.709 in BT.2020 coordinates."""
    code = (BT709_TO_BT2020 @ [1.0, 0.0, 0.0]) ** (1 / 2.4)
    planes = bt2020_planes(np.broadcast_to(code, (64, 96, 3)))
    red, green, blue = shaped(ten_bit_frame(planes, transfer=14))
    assert red >= 250 and max(green, blue) <= 40  # Unconverted they are 210, 84 and 46.


@pytest.mark.long
@pytest.mark.parametrize("tag", range(24))
def test_any_tags_are_taken(tag: int) -> None:
    """Those that are reserved or unknown as unspecified ones: headers may be damaged."""
    frame = yuv((200, 30, 30), BT601, 64)
    frame.colorspace, frame.color_trc, frame.color_primaries = tag, tag, tag
    assert np.isfinite(shaped(frame)).all()
    white = ten_bit_frame(bt2020_planes(np.full((64, 96, 3), pq_code(np.array(203.0)))), 16)
    for name in ("colorspace", "color_primaries"):
        before = getattr(white, name)
        setattr(white, name, tag)
        if tag != 0 or name != "colorspace":  # RGB in the guise of YUV
            assert min(shaped(white)) > 240, name
        setattr(white, name, before)
