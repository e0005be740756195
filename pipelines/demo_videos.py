"""Demo videos: real handwritten digits that bounce over a dark frame.

Every video shows a different handwritten digit, so that splits share no handwriting. All digits
move at one speed in pixels a *second*, so that the frame rate of a clip is visible.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipelines.settings import VideosJob
from pipelines.video import Frames
from vqvdm.errors import UserError

CLASSES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
BACKGROUND = 16
INK = 235


@dataclass(frozen=True)
class DemoVideos(VideosJob):
    """Write videos of handwritten digits in motion, one folder a class."""

    count: int = 640
    """Number of videos, each of another handwritten digit; a tenth of them in each class."""
    size: int = 128
    """Height and width in pixels."""
    fps: float = 16.0
    """Frames a second."""
    duration_s: float = 4.0
    """Length of a video."""
    speed_px_s: float = 32.0
    """Speed of the digits in pixels a second."""
    seed: int = 0


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


def digit_video(
    image_88: NDArray[np.float64], config: DemoVideos, rng: np.random.Generator
) -> Frames:
    """Frames (T, H, W, 3) of one digit in motion from a random place in a random direction."""
    size, digit = config.size, config.size * 9 // 16
    room = size - digit
    angle = rng.uniform(0, 2 * np.pi)
    x0, y0 = rng.uniform(0, room, 2)
    sprite = digit_sprite(image_88, digit)
    frames = []
    for index in range(round(config.duration_s * config.fps)):
        time_s = index / config.fps
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


def demo_videos(config: DemoVideos) -> str:
    """Write `config.count` videos, one folder a class; existing files are kept."""
    # Imported late: it takes a second, and every job imports the settings above.
    from sklearn.datasets import load_digits

    from pipelines.io import storage
    from pipelines.video.encoder import encode_h264

    digits = load_digits()
    by_class = [np.flatnonzero(digits.target == label) for label in range(10)]
    most = 10 * min(map(len, by_class))
    if not 1 <= config.count <= most:
        raise UserError(f"--count must lie in 1 to {most}: every video shows a different digit")
    folder = config.videos_uri
    present = {file.uri for file in storage.walk(folder)}
    if config.dry_run:
        return f"would write {config.count} videos into {folder}"
    written = 0
    for index in range(config.count):
        label, number = index % 10, index // 10
        uri = storage.join(folder, CLASSES[label], f"{CLASSES[label]}-{number:03d}.mp4")
        if uri in present:
            continue
        image = digits.images[by_class[label][number]]
        video = digit_video(image, config, np.random.default_rng([config.seed, index]))
        storage.publish_bytes(encode_h264(video, config.fps), uri)
        written += 1
    return f"{config.count} videos, {written} of them new"
