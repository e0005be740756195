"""The built-in detector tells damage from none, and the more of it the farther."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from vqvdm.metrics import frechet_distance
from vqvdm.metrics.builtin import builtin_detector

Videos = np.ndarray
COUNT, FRAMES, SIZE = 24, 8, 32


def clips(seed: int) -> Videos:
    """Smooth patterns that drift, each its own way."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    videos = np.zeros((COUNT, FRAMES, SIZE, SIZE, 3))
    for video in videos:
        k, speed, phase = rng.normal(0, 0.5, (3, 2)), rng.normal(0, 0.6, 3), rng.uniform(0, 6, 3)
        for c in range(3):
            wave = k[c, 0] * y + k[c, 1] * x + phase[c]
            for t in range(FRAMES):
                video[t, :, :, c] = 127 + 110 * np.sin(wave + speed[c] * t)
    return videos.astype(np.uint8)


def noise(videos: Videos, sigma: float) -> Videos:
    noisy = videos + np.random.default_rng(1).normal(0, sigma, videos.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def blur(videos: Videos, width: float) -> Videos:
    x = torch.from_numpy(videos).flatten(0, 1).permute(0, 3, 1, 2).float()
    x = torch.nn.functional.avg_pool2d(x, int(width), 1, int(width) // 2, count_include_pad=False)
    return x.permute(0, 2, 3, 1).round().byte().numpy().reshape(videos.shape)


def shuffle(videos: Videos, frames: float) -> Videos:
    rng, out = np.random.default_rng(2), videos.copy()
    for video in out:
        places = rng.choice(FRAMES, int(frames), replace=False)
        video[places] = video[np.roll(places, 1)]
    return out


def freeze(videos: Videos, frames: float) -> Videos:
    out = videos.copy()
    out[:, FRAMES - int(frames) :] = out[:, FRAMES - 1 - int(frames)][:, None]
    return out


@pytest.fixture(scope="module")
def seen() -> tuple[Videos, Callable[[Videos], float]]:
    detector = builtin_detector()
    real = detector.features(clips(0))
    return clips(0), lambda videos: frechet_distance(real, detector.features(videos))


@pytest.mark.parametrize(
    ("damage", "levels"),
    [(noise, (25, 60)), (blur, (3, 9)), (shuffle, (3, 8)), (freeze, (3, 7))],
    ids=["noise", "blur", "shuffled frames", "frozen frames"],
)
def test_the_distance_grows_with_damage(seen, damage, levels) -> None:
    intact, distance = seen
    assert distance(intact) < 1e-6
    little, much = (distance(damage(intact, level)) for level in levels)
    assert 0.01 < little < much
