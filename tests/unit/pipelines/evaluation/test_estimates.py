"""Intervals that hold what they promise, also for the draw of real clips."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from pipelines.evaluation.estimates import Estimate, distance_estimate, estimate
from pipelines.evaluation.statistics import Statistics
from vqvdm.metrics.frechet import (
    GaussianStatistics,
    frechet_distance_from_statistics,
    merged,
)

WIDTH = 8


def parts(rng: np.random.Generator, count: int, shift: float) -> list[GaussianStatistics]:
    """A set of clips whose features have long tails and three classes in equal shares."""
    classes = np.arange(count) % 3
    z = rng.standard_normal((count, WIDTH))
    rows = np.sign(z) * np.abs(z) ** 1.3 * (1 - shift) + shift + classes[:, None]
    made = Statistics("clips", count, strata=classes)
    made.add({"features": rows}, np.arange(count))
    return made.gaussian_parts


def distance(a: Sequence[GaussianStatistics], b: Sequence[GaussianStatistics]) -> float:
    return frechet_distance_from_statistics(merged(a), merged(b))


def coverage(found: Sequence[Estimate]) -> float:
    """The share of intervals that hold the mean over all repetitions."""
    truth = np.mean([each.mean for each in found])
    return float(np.mean([abs(e.mean - truth) < (e.interval or 0) for e in found]))


@pytest.mark.long
@pytest.mark.parametrize("repeats", [1, 5])
def test_intervals_hold_in_95_of_100_draws(repeats: int) -> None:
    rng, both, samples_only = np.random.default_rng(repeats), [], []
    for _ in range(300):
        real = parts(rng, 240, 0.0)
        samples = [parts(rng, 240, 0.2) for _ in range(repeats)]
        both.append(distance_estimate(distance, real, samples))
        samples_only.append(estimate([distance(real, each) for each in samples]))
    # Three standard errors of a share of 0.95 in 300 are 0.038; too wide is no fault.
    assert 0.91 <= coverage(both) <= 0.99
    width = np.mean([each.interval for each in both]) / np.std([each.mean for each in both])
    assert width < 1.25 * (1.96 if repeats == 1 else 2.1)
    # Repeats alone know nothing of the real draw, which all of them share.
    assert coverage(samples_only) < 0.75


def test_a_single_part_has_no_interval() -> None:
    rng = np.random.default_rng(0)
    whole = [merged(parts(rng, 60, 0.0))]
    found = distance_estimate(distance, whole, [parts(rng, 60, 0.0)])
    assert (found.interval, found.repeats) == (None, 1)


def test_the_variance_of_a_mean_is_known() -> None:
    """Of the difference of two means the jackknife is exact."""
    rng = np.random.default_rng(1)
    real, fake = rng.standard_normal((2, 20, 5))

    def apart(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
        return float(np.mean(b) - np.mean(a))

    found = distance_estimate(apart, list(real), [list(fake)])
    a, b = real.mean(1), fake.mean(1)
    low, high = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    assert (found.mean - found.interval, found.mean + found.interval) == pytest.approx((low, high))  # type: ignore


def test_equal_values_have_an_interval_of_nothing() -> None:
    assert estimate([2.0, 2.0, 2.0]) == Estimate(2.0, 0.0, 3)


def test_an_interval_of_one_set_needs_repeats() -> None:
    assert estimate([3.0]).interval is None
    values = [1.0, 2.0, 4.0, 5.0]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    found = estimate(values)
    assert found.interval is not None
    assert (found.mean - found.interval, found.mean + found.interval) == pytest.approx((low, high))
