"""Displacement of a bright square whose path is known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.evaluation.motion import displacement

Videos = NDArray[np.uint8]


def square(path: list[tuple[int, int]], ground: int = 0, light: int = 255) -> Videos:
    """(1, T, 32, 40, 3): a square of 4x4 pixels with its corner at (y, x) in each frame."""
    video = np.full((1, len(path), 32, 40, 3), ground, np.uint8)
    for frame, (y, x) in zip(video[0], path, strict=True):
        frame[y : y + 4, x : x + 4] = light
    return video


def line(dy: int, dx: int, frames: int = 6) -> list[tuple[int, int]]:
    return [(2 + dy * i, 3 + dx * i) for i in range(frames)]


@pytest.mark.parametrize(("dy", "dx"), [(0, 0), (0, 1), (2, 0), (3, 4)])
@pytest.mark.parametrize(("ground", "light"), [(0, 255), (40, 200)])
def test_a_steady_path(dy: int, dx: int, ground: int, light: int) -> None:
    found = displacement(square(line(dy, dx), ground, light))
    assert found.shape == (1,)
    assert found == pytest.approx([np.hypot(dy, dx)])


def test_a_turn_is_left_out() -> None:
    there = line(0, 4, frames=7)
    bounced = [*there, there[-1], *there[::-1][1:3]]  # one frame stands still
    assert displacement(square(bounced)) == pytest.approx([4])


def test_each_video_has_its_own() -> None:
    videos = np.concatenate([square(line(*step)) for step in ((0, 2), (1, 0), (4, 3))])
    assert displacement(videos) == pytest.approx([2, 1, 5])


def test_weak_noise_is_not_motion() -> None:
    rng = np.random.default_rng(0)
    video = square(line(0, 3)).astype(int) + rng.integers(0, 20, (1, 6, 32, 40, 3))
    assert displacement(video.clip(0, 255).astype(np.uint8)) == pytest.approx([3], abs=0.1)


@pytest.mark.parametrize("ground", [0, 255])
def test_an_empty_video_does_not_move(ground: int) -> None:
    assert displacement(square(line(0, 3), ground, light=ground)) == pytest.approx([0])
