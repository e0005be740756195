"""The beginning of a user's video, as a clip."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.video import Frames
from pipelines.video.excerpt import Excerpt, first_frames
from pipelines.video.reasons import VideoError
from tests.odd_videos import COUNT, FPS, number_of, plain


def excerpt(path: Path, frames: int, fps: float = FPS) -> Frames:
    (found,) = first_frames(Excerpt(str(path), 64, fps, frames))
    assert isinstance(found, np.ndarray), found
    return found


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain(tmp_path_factory.mktemp("videos") / "a.mp4")


def test_as_many_frames_as_asked_from_the_first_on(video: Path) -> None:
    clip = excerpt(video, 6)
    assert clip.shape == (6, 64, 64, 3)
    assert [number_of(frame) for frame in clip] == list(range(6))


def test_frames_are_those_displayed_at_the_rate_that_is_asked_for(video: Path) -> None:
    assert [number_of(frame) for frame in excerpt(video, 4, FPS / 2)] == [0, 2, 4, 6]
    assert [number_of(frame) for frame in excerpt(video, 4, 2 * FPS)] == [0, 0, 1, 1]


def test_a_video_that_ends_before_gives_what_it_has(video: Path) -> None:
    assert len(excerpt(video, 10 * COUNT)) == COUNT


def test_a_picture_is_a_video_of_one_frame(tmp_path: Path) -> None:
    Image.fromarray(np.full((80, 100, 3), 130, np.uint8)).save(tmp_path / "still.png")
    clip = excerpt(tmp_path / "still.png", 4, 16.0)
    assert clip.shape[1:] == (64, 64, 3)
    assert len(clip) == 1
    assert np.allclose(clip, 130, atol=1)


def test_what_does_not_decode_says_why(tmp_path: Path) -> None:
    (tmp_path / "noise.mp4").write_bytes(b"noise")
    (found,) = first_frames(Excerpt(str(tmp_path / "noise.mp4"), 64, 8.0, 4))
    assert isinstance(found, VideoError)
    assert found.reason == "unreadable"
