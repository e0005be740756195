"""Samples of brightness: the same frames whether a format has an index or not, in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.video import luma
from pipelines.video.header import probe
from tests.odd_videos import write

COUNT = 48


@pytest.mark.parametrize(("name", "codec"), [("a.ts", "mpeg2video"), ("a.flv", "flv1")])
def test_without_an_index_one_pass_takes_all(
    name: str, codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sought are the middles of equal parts; before, each sample decoded from the beginning."""
    path = str(write(tmp_path / name, codec, count=COUNT))
    info = probe(path)
    decoded, original = [], luma.clean_frames

    def counted(*arguments: Any, **options: Any) -> Iterator[Any]:
        for frame in original(*arguments, **options):
            decoded.append(frame)
            yield frame

    monkeypatch.setattr(luma, "clean_frames", counted)
    found = list(luma.sample_luma(path, info, 8))
    assert len(found) == 8 and len(decoded) <= COUNT
    # Each alone is found as among the others.
    assert info.duration_s
    step_s = info.duration_s / 8
    for number, frame_HW in enumerate(found):
        [alone] = luma.sample_luma(path, info, 1, None, (number * step_s, (number + 1) * step_s))
        np.testing.assert_array_equal(alone, frame_HW)


def test_past_the_end_the_last_frame_is_taken(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.ts", "mpeg2video", count=8))
    found = list(luma.sample_luma(path, probe(path), 4, None, (0.0, 60.0)))
    assert len(found) == 4
    for frame_HW in found[1:]:
        np.testing.assert_array_equal(frame_HW, found[0])
