"""Digits in motion: a different one in each video, at a steady speed."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from pipelines.demo import digits
from pipelines.demo.settings import DIGITS, DemoVideos
from pipelines.video import Frames


def test_every_video_has_a_digit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[bytes]()

    def record(image: NDArray[np.float64], config: DemoVideos, rng: np.random.Generator) -> Frames:
        seen.append(image.tobytes())
        return np.zeros((1, 16, 16, 3), np.uint8)

    monkeypatch.setattr(digits, "moving_digit", record)
    for number in range(20):
        for name in DIGITS:
            digits.digit_video(DemoVideos(), name, number)
    assert len(set(seen)) == len(seen) == 200
    X, y = load_digits(return_X_y=True)
    labels = {image.tobytes(): label for image, label in zip(X, y, strict=True)}
    assert [labels[digit] for digit in seen] == list(range(10)) * 20


def test_there_are_as_many_videos_as_digits_of_the_rarest_class() -> None:
    counts = np.bincount(load_digits().target)
    assert digits.most_videos() == 10 * counts.min() == 1740


@pytest.mark.parametrize("velocity", [-70.0, -1.0, 0.0, 3.0, 250.0])
def test_bouncing_stays_in_the_room(velocity: float) -> None:
    positions = [digits.bounce(4.0, velocity, 10.0, index / 100) for index in range(500)]
    assert positions[0] == 4.0
    assert all(0 <= position <= 10 for position in positions)
    steps = np.abs(np.diff(positions))
    assert steps.max() <= abs(velocity) / 100 + 1e-9
    assert np.median(steps) == pytest.approx(abs(velocity) / 100)


@pytest.mark.parametrize("fps", [8.0, 16.0])
def test_a_digit_moves_at_its_speed(fps: float) -> None:
    config = DemoVideos(size=128, fps=fps, duration_s=4.0, speed_px_s=32.0)
    clear = list[float]()
    for number, image in enumerate(load_digits().images[:5]):
        frames = digits.moving_digit(image, config, np.random.default_rng([0, number]))
        light_THW = frames[..., 0].astype(float) - digits.BACKGROUND
        assert light_THW.min() == 0 and light_THW.max() <= digits.INK - digits.BACKGROUND
        grid = np.arange(128)
        mass = light_THW.sum((1, 2))
        centre_T2 = np.stack(
            [(light_THW.sum(axis) * grid).sum(1) / mass for axis in (1, 2)], axis=1
        )
        # The digit fills 56 pixels: it turns back with its middle at about 28 from a wall.
        away = ((centre_T2 > 48) & (centre_T2 < 80)).all(1)
        steps = np.linalg.norm(np.diff(centre_T2, axis=0), axis=1)
        clear += steps[away[1:] & away[:-1]].tolist()
    assert len(clear) > 10
    np.testing.assert_allclose(clear, 32 / fps, atol=0.1)
