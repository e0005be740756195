"""Statistics summed from parts, in bounded memory."""

import tracemalloc

import numpy as np
import pytest

from pipelines.evaluation.statistics import KERNEL_ROWS, PARTS, Statistics
from vqvdm.errors import UserError
from vqvdm.metrics import frechet_distance, inception_score, kernel_distance
from vqvdm.metrics.frechet import frechet_distance_from_statistics

WIDTH = 24


def features(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, WIDTH)) + 100 * (seed + 1)).astype(np.float32)


def summed(rows: np.ndarray, order: list[int], part: int = 7, **settings: object) -> Statistics:
    """A summary of rows that come in parts of `part`, in some order."""
    summary = Statistics("clips", len(rows), **settings)  # type: ignore[arg-type]
    for start in range(0, len(order), part):
        indices = np.array(order[start : start + part])
        summary.add({"features": rows[indices]}, indices)
    return summary


def test_parts_in_any_order_give_the_whole() -> None:
    a, b = features(90), features(120, seed=1)
    shuffled = np.random.default_rng(3).permutation(90).tolist()
    one, other = summed(a, shuffled), summed(b, list(range(120)), part=50)
    for ddof in (0, 1):
        whole = frechet_distance(a, b, ddof)
        assert one.gaussian and other.gaussian
        found = frechet_distance_from_statistics(one.gaussian, other.gaussian, ddof)
        assert found == pytest.approx(whole, rel=1e-9)
    rows = (np.concatenate(each.row_parts) for each in (one, other))
    assert kernel_distance(*rows) == pytest.approx(kernel_distance(a, b), rel=1e-9)
    np.testing.assert_array_equal(
        np.sort(np.concatenate(one.row_parts), axis=0), np.sort(a, axis=0)
    )


def test_parts_have_the_classes_of_the_whole() -> None:
    classes = np.array([0] * 200 + [1] * 100)
    rows = np.stack([classes, np.arange(300)], 1).astype(np.float32)
    made = Statistics("clips", 300, strata=classes)
    made.add({"features": rows}, np.arange(300))
    assert [part.count for part in made.gaussian_parts] == [15] * PARTS
    assert [part.mean_D[0] for part in made.gaussian_parts] == pytest.approx([1 / 3] * PARTS)
    for rows_ND, part in zip(made.row_parts, made.gaussian_parts, strict=True):
        np.testing.assert_allclose(rows_ND.mean(0), part.mean_D)
    # Which clip is in which part does not depend on where it stands in the set.
    assert np.corrcoef(np.arange(300), made._part)[0, 1] < 0.2


def test_a_small_set_is_one_part() -> None:
    assert len(summed(features(2 * PARTS - 1), list(range(2 * PARTS - 1))).gaussian_parts) == 1
    assert len(summed(features(2 * PARTS), list(range(2 * PARTS))).gaussian_parts) == PARTS


def test_scores_by_split() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(5, 0.3), 60)
    summary = Statistics("samples", 60, splits=3, seed=4)
    for start in range(0, 60, 8):
        indices = np.arange(start, min(60, start + 8))
        summary.add({"probabilities": probabilities[indices]}, indices)
    place = summary._place
    shuffled = probabilities[np.argsort(place)]
    assert summary.score() == pytest.approx(inception_score(shuffled, 3))


def test_too_few_clips_are_refused_with_the_number_needed() -> None:
    few = summed(features(WIDTH), list(range(WIDTH)))
    with pytest.raises(UserError, match=f"{WIDTH} clips are too few.* at least {WIDTH + 1} are"):
        few.require_full_rank()


def test_constant_features_are_refused() -> None:
    same = summed(np.ones((60, WIDTH), np.float32), list(range(60)))
    with pytest.raises(UserError, match="all 60 clips have the same features"):
        same.require_full_rank()


def test_broken_features_are_refused() -> None:
    rows = features(10)
    rows[3, 0] = np.nan
    with pytest.raises(UserError, match=r"features of clips hold NaN or infinity in 1 of 10 rows"):
        summed(rows, list(range(10)), part=10)


def peak(count: int) -> int:
    """Peak memory in bytes while `count` videos are added, twenty at a time."""
    rng = np.random.default_rng(0)
    summary = Statistics("samples", count)
    tracemalloc.start()
    for start in range(0, count, 20):
        indices = np.arange(start, min(count, start + 20))
        rows = rng.standard_normal((len(indices), 200)).astype(np.float32)
        summary.add({"features": rows, "fps": np.full(len(indices), 8.0)}, indices)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert summary.count == count
    return most


@pytest.mark.long
def test_fifty_thousand_need_no_more_memory_than_five_hundred() -> None:
    """Beside the rows for the kernel distance, whose number is limited."""
    rows = KERNEL_ROWS * (200 * 4 + 400)
    assert peak(50_000) < peak(500) + rows


def test_the_rows_kept_are_spread_over_the_set() -> None:
    count = 3 * KERNEL_ROWS
    summary = Statistics("samples", count)
    summary.add({"features": np.arange(2 * count).reshape(count, 2).astype(np.float32)},
                np.arange(count))  # fmt: skip
    cached = np.concatenate(summary.row_parts)[:, 0] / 2
    assert len(cached) == KERNEL_ROWS
    assert np.histogram(cached, 3, (0, count))[0].min() > 0.9 * KERNEL_ROWS / 3


def test_means_by_rate_leave_infinite_values_out() -> None:
    summary = Statistics("clips", 4)
    seen = {
        "psnr": np.array([30.0, np.inf, 20.0]),
        "displacement": np.array([2.0, 4.0, 1.0]),
        "fps": np.array([8.0, 8.0, 16.0]),
    }
    summary.add(seen, np.arange(3))
    assert summary.mean("psnr") == 25.0
    assert summary.rates == [8.0, 16.0]
    assert [summary.mean("displacement", rate) for rate in summary.rates] == [3.0, 1.0]
    assert summary.mean("ssim") is None
