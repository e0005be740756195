"""Videos side by side in one animation."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from pipelines.video import Frames


def grid(videos: Sequence[Frames], columns: int, fps: float) -> bytes:
    """A GIF of videos side by side, row after row."""
    height, width = videos[0].shape[1:3]
    rows = -(-len(videos) // columns)
    canvas = np.zeros((len(videos[0]), rows * height, columns * width, 3), np.uint8)
    for index, video in enumerate(videos):
        row, column = divmod(index, columns)
        top, left = row * height, column * width
        canvas[:, top : top + height, left : left + width] = video
    frames = [Image.fromarray(frame) for frame in canvas]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=1000 / fps, loop=0
    )
    return buffer.getvalue()
