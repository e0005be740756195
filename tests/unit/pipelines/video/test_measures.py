"""What clips look like in numbers."""

import numpy as np
import pytest
from scenedetect import ContentDetector, FrameTimecode, StatsManager

from pipelines.video.measures import sharpness
from pipelines.video.scenes import THRESHOLD, SceneDetector, largest_change


def noise(seed: int, count: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    frame = np.zeros((8, 8, 3), np.uint8)
    frame[:, 4:] = 100  # An edge: 100 to its left, -100 to its right, and 0 elsewhere.
    assert sharpness(frame[None]) == pytest.approx(2 * 100**2 / 8)
    flat = np.full((2, 8, 8, 3), 100, np.uint8)
    assert sharpness(flat) == 0.0
    assert sharpness(np.stack([frame, flat[0]])) == pytest.approx(100**2 / 8)


def test_blurred_frames_are_less_sharp() -> None:
    sharp = noise(0)
    means = sharp.reshape(4, 16, 2, 16, 2, 3).mean((2, 4)).astype(np.uint8)
    blurred = means.repeat(2, 1).repeat(2, 2)
    assert sharpness(blurred) < 0.5 * sharpness(sharp)


def test_the_largest_change_is_that_by_which_cuts_are_found() -> None:
    still, other = noise(1, 1).repeat(4, 0), noise(2, 1).repeat(4, 0)
    assert largest_change(still) == 0.0 == largest_change(still[:1])
    clip = np.concatenate([still, other])
    assert largest_change(clip) == largest_change(clip[::-1]) > THRESHOLD
    dimmed = np.concatenate([still, (still * 0.9).astype(np.uint8)])
    assert 0 < largest_change(dimmed) < THRESHOLD
    for frames, is_cut in [(clip, True), (dimmed, False)]:
        detector = SceneDetector(25.0)
        assert any([detector.is_cut(frame) for frame in frames]) == is_cut
        assert largest_change(frames) == pytest.approx(largest_score(frames))


def largest_score(frames: np.ndarray) -> float:
    """By PySceneDetect itself."""
    detector, stats = ContentDetector(THRESHOLD, min_scene_len=0), StatsManager()
    detector.stats_manager = stats
    stats.register_metrics(detector.get_metrics())
    times = [FrameTimecode(number, 25.0) for number in range(len(frames))]
    for time, frame in zip(times, frames, strict=True):
        detector.process_frame(time, frame[..., ::-1])
    return max(stats.get_metrics(time, [detector.FRAME_SCORE_KEY])[0] for time in times[1:])
