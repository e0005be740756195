"""What clips look like, measured on clips that were made so."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.inspection.pixels import Looks, Pixels, looks
from pipelines.video import Frames


def noise(frames: int = 8) -> Frames:
    return np.random.default_rng(0).integers(0, 256, (frames, 32, 32, 3), np.uint8)


def test_brightness_and_motion_are_of_255() -> None:
    ramp = np.zeros((4, 8, 8, 3), np.uint8)
    ramp += np.arange(0, 40, 10, np.uint8)[:, None, None, None]
    found = looks(ramp)
    assert found.brightness == pytest.approx(15)
    assert found.motion == pytest.approx(10)
    assert found.repeated == 0


def test_frames_that_are_those_before_them_are_counted() -> None:
    assert looks(noise(5)[[0, 0, 1, 1, 2]]).repeated == pytest.approx(0.5)
    assert looks(noise(1)[[0, 0, 0]]) == Looks(looks(noise(1)).brightness, 0.0, 1.0, 0.0)


@pytest.mark.parametrize("axis", [1, 2])
def test_bars_on_two_sides_are_found(axis: int) -> None:
    clip = np.moveaxis(noise(), axis, 0)
    clip[:4] = clip[-6:] = 16  # video black
    assert looks(np.moveaxis(clip, 0, axis)).bar == pytest.approx(8 / 32)


def test_what_is_no_bar() -> None:
    one_side, dark, night = noise(), np.zeros_like(noise()), np.zeros_like(noise())
    one_side[:, :8] = 0
    night[:, 12:18, 12:18] = 200  # an object on a dark ground
    bright = noise()
    bright[:, :8] = bright[:, -8:] = 255
    assert [looks(clip).bar for clip in (one_side, dark, night, bright, noise())] == [0.0] * 5


def test_a_share_is_of_the_clips_that_were_looked_at() -> None:
    found = Pixels([Looks(b, 1.0, 0.0, 0.0) for b in (1, 5, 8, 100)])
    assert found.share("brightness", 0, 8) == 0.5
    assert found.share("brightness", 8) == 0.5
    assert Pixels().share("brightness", 0, 8) == 0.0 and Pixels().metrics == {}
