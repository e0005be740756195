"""Windows that overlap: how many, which class, and how frames are blended."""

import numpy as np
import pytest

from vqvdm.errors import UserError
from vqvdm.windows import count_windows, joined, spread


@pytest.mark.parametrize(
    ("frames", "latents", "group", "windows"),
    [(16, 4, 4, 1), (24, 4, 4, 2), (64, 4, 4, 7), (5, 3, 1, 2), (8, 5, 1, 2), (8, 1, 8, 1)],
)
def test_a_length_has_so_many_windows(frames: int, latents: int, group: int, windows: int) -> None:
    assert count_windows(frames, latents, group) == windows


@pytest.mark.parametrize(
    ("frames", "latents", "message"),
    [
        (20, 4, r"frames is 20: .* makes 16, and goes on by 8 .*; give 16 or 24"),
        (60, 4, "give 56 or 64"),
        (8, 4, "give 16 or 24"),
        (8, 1, "makes 4, and no longer videos"),
    ],
)
def test_other_lengths_are_refused_with_the_nearest(
    frames: int, latents: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        count_windows(frames, latents, 4)


def test_classes_are_spread_over_the_windows_in_order() -> None:
    assert spread(["a"], 3) == ["a", "a", "a"]
    assert spread(["a", "b"], 4) == ["a", "a", "b", "b"]
    assert spread(["a", "b", "c"], 3) == ["a", "b", "c"]
    for names in (["a", "b", "c", "d"], []):
        with pytest.raises(UserError, match="windows of the video: 3"):
            spread(names, 3)


def test_where_windows_overlap_one_passes_into_the_other() -> None:
    before, after = (np.full((1, 4, 2, 2, 3), value, np.uint8) for value in (0, 90))
    video = joined(before, after, 2)
    assert video.dtype == np.uint8
    assert video[0, :, 0, 0, 0].tolist() == [0, 0, 30, 60, 90, 90]
