"""Real handwritten digits that bounce over a dark frame.

Every video shows a different handwritten digit, so that splits share no handwriting. All digits
move at one speed in pixels a *second*, so that the frame rate of a clip is visible.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipelines.demo.settings import DIGITS, DemoVideos
from pipelines.video import Frames

BACKGROUND = 16
INK = 235


@cache
def handwritten() -> dict[str, NDArray[np.float64]]:
    """Images (N, 8, 8) of each digit, 0 to 16."""
    # Imported late: it takes a second.
    from sklearn.datasets import load_digits

    digits = load_digits()
    return {name: digits.images[digits.target == label] for label, name in enumerate(DIGITS)}


def most_videos() -> int:
    """How many videos there may be, each of a different digit, and as many of each class."""
    return len(DIGITS) * min(map(len, handwritten().values()))


def digit_sprite(image_88: NDArray[np.float64], size: int) -> Image.Image:
    """An 8x8 handwritten digit (0 to 16) as a smooth mask of `size` pixels (0 to 1).

    A dark border of one pixel allows positions between pixels without a cut edge.
    """
    mask = Image.fromarray((image_88 / 16).astype(np.float32))
    return ImageOps.expand(mask.resize((size, size), Image.Resampling.BICUBIC), border=1)


def bounce(start: float, velocity: float, room: float, time_s: float) -> float:
    """Position at a time, reflected at 0 and `room`."""
    position = (start + velocity * time_s) % (2 * room)
    return min(position, 2 * room - position)


def moving_digit(
    image_88: NDArray[np.float64], config: DemoVideos, rng: np.random.Generator
) -> Frames:
    """Frames (T, H, W, 3) of one digit in motion from a random place in a random direction."""
    wanted = config.format
    size, digit = wanted.size, wanted.size * 9 // 16
    room = size - digit
    angle = rng.uniform(0, 2 * np.pi)
    x0, y0 = rng.uniform(0, room, 2)
    sprite = digit_sprite(image_88, digit)
    frames = []
    for index in range(wanted.frames):
        time_s = index / wanted.fps
        x = bounce(x0, config.speed_px_s * np.cos(angle), room, time_s)
        y = bounce(y0, config.speed_px_s * np.sin(angle), room, time_s)
        # An affine map gives positions between pixels: with whole pixels the motion stutters.
        mask = sprite.transform(
            (size, size),
            Image.Transform.AFFINE,
            (1, 0, 1 - x, 0, 1, 1 - y),
            Image.Resampling.BILINEAR,
        )
        frame = BACKGROUND + (INK - BACKGROUND) * np.asarray(mask).clip(0, 1)
        frames.append(np.repeat(frame.round().astype(np.uint8)[..., None], 3, axis=-1))
    return np.stack(frames)


def digit_video(config: DemoVideos, digit: str, number: int) -> Frames:
    """Frames (T, H, W, 3) of video `number` of a digit."""
    index = number * len(DIGITS) + DIGITS.index(digit)
    rng = np.random.default_rng([config.seed, index])
    return moving_digit(handwritten()[digit][number], config, rng)
