"""Videos side by side in one animation."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipelines.video import Frames

CAPTION = 14
"""Height of a caption in pixels."""


def grid(videos: Sequence[Frames], columns: int, fps: float, captions: Sequence[str] = ()) -> bytes:
    """A GIF of videos side by side, row after row; `captions` stand above the rows."""
    height, width = videos[0].shape[1:3]
    rows, strip = -(-len(videos) // columns), CAPTION if captions else 0
    below = strip + height
    canvas = np.zeros((len(videos[0]), rows * below, columns * width, 3), np.uint8)
    for row, text in enumerate(captions):
        canvas[:, row * below : row * below + strip] = _caption(text, columns * width)
    for index, video in enumerate(videos):
        row, column = divmod(index, columns)
        top, left = row * below + strip, column * width
        canvas[:, top : top + height, left : left + width] = video
    frames = [Image.fromarray(frame) for frame in canvas]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=1000 / fps, loop=0
    )
    return buffer.getvalue()


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
