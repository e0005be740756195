"""Videos side by side in one animation."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipelines.video import Frames

CAPTION = 14
"""Height of a caption in pixels."""


MOST_FRAMES = 128
"""Frames of a grid at most; of longer videos, every second one is shown, or every third."""
MOST_PIXELS = 2**25
"""Pixels of all videos of a grid in all frames at most, captions apart: 16 rows of 8 videos of
16x128x128. Making the GIF takes four bytes for each."""


@dataclass(frozen=True)
class Fit:
    """How much of videos a grid can show."""

    columns: int
    step: int
    """Every which frame is shown."""
    shrink: int
    """By which factor sides are shorter."""


def fit(rows: int, columns: int, shape_THW: Sequence[int], fewest: int = 1) -> Fit:
    """What fits into a grid of so many rows, and at most so many columns, of videos of one shape:
    first frames are left out, then columns but for the `fewest`, then videos are made smaller."""
    frames, height, width = shape_THW
    step = math.ceil(frames / MOST_FRAMES)
    most = MOST_PIXELS / (rows * math.ceil(frames / step))
    columns, shrink = max(fewest, min(columns, int(most / (height * width)))), 1
    while columns * math.ceil(height / shrink) * math.ceil(width / shrink) > most:
        shrink += 1
    return Fit(columns, step, shrink)


def grid(
    videos: Iterable[Frames],
    columns: int,
    fps: float,
    captions: Sequence[str] = (),
    shrink: int = 1,
) -> bytes:
    """A GIF of videos of one shape side by side, row after row; `captions` stand above the rows.

    Videos are taken one by one, and their sides made shorter by the factor `shrink`.
    """
    rows, strip = list[Frames](), CAPTION if captions else 0
    for index, video in enumerate(videos):
        row, column = divmod(index, columns)
        small = _smaller(video, shrink)
        frames, height, width = small.shape[:3]
        if not column:
            rows.append(np.zeros((frames, strip + height, columns * width, 3), np.uint8))
            if captions:
                rows[row][:, :strip] = _caption(captions[row], columns * width)
        rows[row][:, strip:, column * width : (column + 1) * width] = small
    pictures = (Image.fromarray(np.concatenate(frames)) for frames in zip(*rows, strict=True))
    buffer = io.BytesIO()
    next(pictures).save(
        buffer, "GIF", save_all=True, append_images=pictures, duration=1000 / fps, loop=0
    )
    return buffer.getvalue()


def _smaller(video_THWC: Frames, factor: int) -> Frames:
    """A video with sides shorter by a whole factor, rounded up."""
    if factor == 1:
        return video_THWC
    return np.stack([np.asarray(Image.fromarray(each).reduce(factor)) for each in video_THWC])


def _caption(text: str, width: int) -> Frames:
    """A line of text (1, CAPTION, width, 3), light on dark."""
    picture = Image.new("RGB", (width, CAPTION))
    font = ImageFont.load_default(CAPTION - 3)
    # The name of a folder need not be text.
    line = _fitting(text.encode("utf-8", "replace").decode(), font, width - 4)
    ImageDraw.Draw(picture).text((2, 0), line, (230, 230, 230), font)
    return np.asarray(picture)[None]


def _fitting(text: str, font: Any, width: int) -> str:
    """A text on one line, cut to a width in pixels; one that is cut ends with "…"."""
    line = " ".join(text.split())
    if font.getlength(line) <= width:
        return line
    line = line[:width]
    while line and font.getlength(f"{line}…") > width:
        line = line[:-1]
    return f"{line.rstrip()}…"
