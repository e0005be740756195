"""Real clips are drawn from `videos.parquet`; their rates are checked before sampling."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from pipelines.evaluation.real_clips import RealClips, check_rates, draw
from pipelines.evaluation.settings import Evaluate
from pipelines.evaluation.statistics import Statistics
from pipelines.io.markers import Marker
from vqvdm.errors import UserError

WIDTH = 64


def real(fps: list[float], labels: list[int] | None = None, spread: float = 1.0) -> RealClips:
    count = len(fps)
    summary = Statistics("real clips", count)
    rows = spread * np.random.default_rng(0).standard_normal((count, WIDTH))
    summary.add({"features": rows}, np.arange(count))
    index_N = np.array(labels or [0] * count)
    return RealClips([None] * count, summary, summary, index_N, np.array(fps), [], None)  # type: ignore


def test_rates_that_no_real_clip_has() -> None:
    with pytest.raises(UserError, match="--fps 12: real clips have 8, 16 frames"):
        check_rates(Evaluate(fps="8,12"), [8.0, 16.0], real([8.0, 16.0]))
    check_rates(Evaluate(fps="8"), [8.0, 16.0], real([8.0, 16.0]))


def test_rates_that_the_model_was_not_trained_at() -> None:
    with pytest.raises(UserError, match="real clips have 25 frames a second"):
        check_rates(Evaluate(), [8.0, 16.0], real([8.0, 25.0]))
    check_rates(Evaluate(), [29.97, 25.0], real([30000 / 1001, 25.0]))


CLIPS = {"long": 90, "mid": 9, "short": 1, "none": 0}


ROWS: list[dict[str, Any]] = [{"id": name, "clips": count} for name, count in CLIPS.items()]


MARKERS = [Marker("train-0", "0", 0, ["k"], list(CLIPS), "spec", "made")]


def test_by_clips_long_videos_weigh_more() -> None:
    refs = draw(MARKERS, ROWS, "clips", 50, seed=0)
    assert len(set(refs)) == 50
    assert Counter(ref.source for ref in refs)["long"] > 40
    assert {ref.ordinal for ref in refs} < set(range(90))


def test_by_videos_each_gives_one() -> None:
    refs = draw(MARKERS, ROWS, "videos", 50, seed=0)
    assert sorted(ref.source for ref in refs) == ["long", "mid", "short"]
    assert any(draw(MARKERS, ROWS, "videos", 50, seed) != refs for seed in range(1, 4))


def test_the_order_of_rows_is_irrelevant() -> None:
    assert draw(MARKERS, ROWS[::-1], "clips", 9, 1) == draw(MARKERS, ROWS, "clips", 9, 1)


def test_the_start_of_a_longer_draw_is_the_shorter_one() -> None:
    assert draw(MARKERS, ROWS, "clips", 20, 1)[:9] == draw(MARKERS, ROWS, "clips", 9, 1)
