"""Resampling to a steady rate: each tick shows the picture displayed at its time."""

import numpy as np
import pytest

from pipelines.sharding.clips import Resampler
from pipelines.video.decoder import Picture


def picture(number: int, time_s: float, until_s: float) -> Picture:
    return Picture(time_s, until_s, np.full((2, 2, 3), number, np.uint8))


@pytest.mark.parametrize(
    ("native", "fps", "count", "expected"),
    [
        (16, 8, 16, [0, 2, 4, 6, 8, 10, 12, 14]),
        (16, 8, 15, [0, 2, 4, 6, 8, 10, 12, 14]),
        (24, 8, 12, [0, 3, 6, 9]),
        (16, 16, 4, [0, 1, 2, 3]),
        (8, 16, 3, [0, 0, 1, 1, 2, 2]),
        (10, 4, 10, [0, 2, 5, 7]),
    ],
)
def test_resampling_keeps_what_is_displayed(
    native: float, fps: float, count: int, expected: list[int]
) -> None:
    resampler, shown = Resampler(fps), []
    for index in range(count):
        shown += resampler.push(picture(index, index / native, (index + 1) / native))
    assert [int(tick.pixels.max()) for tick in shown] == expected
    assert [tick.number for tick in shown] == list(range(len(expected)))
