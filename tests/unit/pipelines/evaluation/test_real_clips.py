"""Real clips are drawn from `videos.parquet`; their rates are checked before sampling."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from pipelines.evaluation.inputs import Inputs
from pipelines.evaluation.real_clips import (
    Drawn,
    OtherClip,
    RealClips,
    check_rates,
    draw,
    draw_real,
    floor_like,
    matched,
)
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
    return RealClips([None] * count, summary, summary, index_N, np.array(fps), [], [], None)  # type: ignore


def test_rates_that_no_real_clip_has() -> None:
    with pytest.raises(UserError, match="--fps 12: real clips have 8, 16 frames"):
        check_rates(Evaluate(fps="8,12"), {"fps": [8.0, 16.0]}, real([8.0, 16.0]))
    check_rates(Evaluate(fps="8"), {"fps": [8.0, 16.0]}, real([8.0, 16.0]))


def test_rates_that_the_model_was_not_trained_at() -> None:
    with pytest.raises(UserError, match="real clips have 25 frames a second"):
        check_rates(Evaluate(), {"fps": [8.0, 16.0]}, real([8.0, 25.0]))
    check_rates(Evaluate(), {"fps": [29.97, 25.0]}, real([30000 / 1001, 25.0]))


def test_a_model_whose_index_lists_a_part_of_its_rates() -> None:
    """What lies among them may be one of the others."""
    bundle = {"fps": [8.0, 30.0], "rate_count": 5000}
    check_rates(Evaluate(), bundle, real([8.0, 12.3, 29.999]))
    with pytest.raises(UserError, match=r"have 31 frames .* at 8, 30: they"):
        check_rates(Evaluate(), bundle, real([12.3, 31.0]))


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


def test_candidates_for_the_floor_have_the_classes_of_the_real_clips() -> None:
    rows = [{"id": f"{label}{i}", "clips": 4, "label": label} for label in "ab" for i in range(40)]
    markers = [Marker("val-0", "0", 0, ["k"], [row["id"] for row in rows], "spec", "made")]
    index = {"spec": {"rates": [8.0, 16.0]}}
    inputs = Inputs(Evaluate(num_real=60), {}, index, "", "", False, None, None, None)
    real, others = draw_real(inputs, markers, rows)
    assert len(real) == 60 and not set(real) & set(others)
    labels = [Counter(ref.source[0] for ref in refs) for refs in (real, others)]
    assert labels[1] == {label: 2 * count for label, count in labels[0].items()}
    inputs = Inputs(
        Evaluate(num_real=60), {}, {"spec": {"rates": [None]}}, "", "", False, None, None, None
    )
    assert Counter(ref.source[0] for ref in draw_real(inputs, markers, rows)[1]) == labels[0]


def test_the_floor_has_the_proportions_of_the_real_clips() -> None:
    wanted = ["a"] * 30 + ["b"] * 10
    there = ["b", "a"] * 100
    found = matched(wanted, there)
    assert Counter(there[i] for i in found) == {"a": 30, "b": 10}
    # With fewer of a class the whole is smaller, but for one in twenty.
    few = Counter(["b", "a"][i % 2] for i in matched(wanted, ["b", "a"] * 15))
    assert few == {"a": 15, "b": 6}  # 21 of 22, where 16 and 6 would be due
    assert len(matched(["a"] * 39 + ["c"], ["a"] * 50)) == 39
    assert matched(wanted, ["c"] * 50) == []


@pytest.mark.parametrize(("by_rate", "slow"), [(True, 10), (False, 20)])
def test_rates_are_matched_where_clips_were_cut_at_several(by_rate: bool, slow: int) -> None:
    rng = np.random.default_rng(0)
    others = [OtherClip(0, 8.0 if i < 40 else 16.0, rng.standard_normal(4)) for i in range(80)]
    wanted = [(0, 8.0)] * 10 + [(0, 16.0)] * 10 if by_rate else [(0, 0.0)] * 20
    floor = floor_like(wanted, others, by_rate, seed=0)
    first = np.mean([clip.features_D for clip in others[:slow]], 0) * slow
    second = np.mean([clip.features_D for clip in others[40:50]], 0) * 10 if by_rate else 0
    assert floor.count == 20 and floor.gaussian
    np.testing.assert_allclose(floor.gaussian.mean_D, (first + second) / 20)


def test_a_floor_of_other_proportions_would_lie_too_high() -> None:
    """300 clips of ten classes far apart: what samples, which copy proportions, are held to."""
    from pipelines.evaluation.estimates import estimate
    from vqvdm.metrics import frechet_distance

    rng = np.random.default_rng(0)
    centres = 3 * rng.standard_normal((10, 6))

    def clips(classes: np.ndarray) -> np.ndarray:
        return centres[classes] + rng.standard_normal((len(classes), 6))

    fair, unfair, samples = [], [], []
    for _ in range(40):
        classes, pool = rng.integers(0, 10, 300), rng.integers(0, 10, 600)
        real, others = clips(classes), clips(pool)
        chosen = matched(classes.tolist(), pool.tolist())
        fair.append(frechet_distance(real, others[chosen]))
        unfair.append(frechet_distance(real, others[:300]))
        samples.append(frechet_distance(real, clips(classes)))
    floor, perfect = estimate(fair), estimate(samples)
    assert floor.interval and perfect.interval
    assert abs(floor.mean - perfect.mean) < floor.interval + perfect.interval
    assert np.mean(unfair) > 1.5 * perfect.mean


def test_a_classifier_trains_on_no_video_that_it_judges() -> None:
    rows = [{"id": f"{label}{i}", "clips": 4, "label": label} for label in "ab" for i in range(40)]
    for row in rows:
        row["uri"] = f"/{row['id']}.mp4"
    ids = [row["id"] for row in rows]
    markers = [
        Marker("train-0", "0", 0, ["k"], ids[:60], "spec", "made"),
        Marker("val-0", "0", 0, ["k"], ids[60:], "spec", "made"),
    ]
    index = {"spec": {"rates": [None]}}
    config = Evaluate(protocol="published", num_samples=30)
    inputs = Inputs(config, {}, index, "", "", False, None, None, None)
    refs, others = draw_real(inputs, markers, rows)
    judged = {ref.source for ref in refs}
    assert len(judged) == 30 and judged <= set(ids[:60])
    trained = Drawn(rows, refs, others, []).unjudged(markers, 1000, 0)
    assert {ref.source for ref in trained} == set(ids[:60]) - judged
    assert len(trained) == 4 * 30
    val = [ref for ref in draw(markers[1:], rows, "clips", 30, 0)]
    assert len(Drawn(rows, val, [], []).unjudged(markers, 1000, 0)) == 4 * 60
    for row in rows:  # Four parts or spans of each file.
        row["uri"] = f"/{row['label']}{int(row['id'][1:]) // 4}.mp4"
    file_of = {row["id"]: row["uri"] for row in rows}
    trained = Drawn(rows, refs[:5], others, []).unjudged(markers, 1000, 0)
    files, judged_files = ({file_of[ref.source] for ref in found} for found in (trained, refs[:5]))
    assert files and judged_files and not files & judged_files
    assert len(trained) == 4 * (60 - 4 * len(judged_files))
