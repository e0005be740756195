"""Frames that are given: groups, what stands in for the others, what is refused."""

from typing import Any

import numpy as np
import pytest

from vqvdm.errors import UserError
from vqvdm.known_frames import KnownFrames

SHAPE = (8, 2, 2)


def numbered(count: int = 1) -> np.ndarray:
    """Videos whose frames have their number as colour."""
    frames = np.arange(8, dtype=np.uint8)[None, :, None, None, None]
    return np.broadcast_to(frames, (count, *SHAPE, 3)).copy()


def colours(videos_NTHWC: np.ndarray) -> list[list[int]]:
    return videos_NTHWC[:, :, 0, 0, 0].tolist()


def test_the_first_frames_begin_a_longer_video() -> None:
    known = KnownFrames.first(numbered()[:, 2:6], 8)
    known.check(1, SHAPE, 4)
    assert known.is_known_NT.tolist() == [True] * 4 + [False] * 4
    assert colours(known.videos_NTHWC)[0][:4] == [2, 3, 4, 5]
    assert known.groups(4).tolist() == [[True, False]]


def test_unknown_frames_stand_still_as_the_nearest_known() -> None:
    mask = np.array([[1, 1, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1, 0, 0]], bool)
    known = KnownFrames(numbered(2), mask)
    assert colours(known.filled()) == [[0, 1, 1, 1, 6, 6, 6, 7], [4, 4, 4, 4, 4, 5, 5, 5]]
    assert known.groups(2).tolist() == [[True, False, False, True], [False, False, True, False]]


def test_both_ends_are_known() -> None:
    known = KnownFrames.ends(numbered(2), 2)
    known.check(2, SHAPE, 2)
    assert known.mask_NT.tolist() == [[True, True, *[False] * 4, True, True]] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"videos_NTHWC": numbered()[:, :4]}, r"known videos are uint8 \(1, 4, 2, 2, 3\)"),
        ({"videos_NTHWC": numbered(2)}, "a video for each class"),
        ({"videos_NTHWC": numbered() / 255}, "known videos are float64"),
        ({"is_known_NT": np.ones(8)}, "the mask of conditioning frames is float64"),
        ({"is_known_NT": np.ones(4, bool)}, r"mask of conditioning frames is bool \(4,\)"),
        ({"is_known_NT": np.arange(8) < 6}, "whole groups of 4.* 0 to 3, 4 to 7"),
        ({"is_known_NT": np.ones(8, bool)}, "leave some to be made"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    fitting: dict[str, Any] = {"videos_NTHWC": numbered(), "is_known_NT": np.arange(8) < 4}
    KnownFrames(**fitting).check(1, SHAPE, 4)
    with pytest.raises(UserError, match=message):
        KnownFrames(**fitting | changes).check(1, SHAPE, 4)
