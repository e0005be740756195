"""Figures with the half-widths of their 95 % intervals, which cover the draw of both sides.

A distance of samples from real clips depends on which samples were made and on which real clips
were drawn. Repeats tell the first; leaving out a twentieth of the real clips at a time tells the
second, and the first too where there is a single repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import stats

Part = TypeVar("Part")
"""What is known of a part of a set: its statistics, or its rows."""


@dataclass(frozen=True)
class Estimate:
    """A metric over repeats: mean, and half the width of its 95 % interval."""

    mean: float
    interval: float | None
    """None where nothing tells how far the figure would vary."""
    repeats: int


@dataclass(frozen=True)
class _Variance:
    """The variance of an estimate, and how well it is known."""

    value: float
    degrees: int
    """Degrees of freedom."""


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of independent repeats with Student's 95 % confidence interval."""
    return _estimate(values, [_of_repeats(values)] if len(values) > 1 else [])


def distance_estimate(
    distance: Callable[[Sequence[Part], Sequence[Part]], float],
    real: Sequence[Part],
    samples: Sequence[Sequence[Part]],
) -> Estimate:
    """A distance of each repeat's samples from real clips; sets are given in random parts.

    The variances of both draws are added; their degrees of freedom are Satterthwaite's. That of
    the real draw is the jackknife's over its parts (Efron and Stein, 1981, on average not too
    small), against the first repeat. Sets of fewer than two parts have no interval.
    """
    values = [distance(real, each) for each in samples]
    first = samples[0]
    if min(len(real), len(first)) < 2:
        return _estimate(values, [])
    by_real = _jackknife([distance(left, first) for left in _leave_one_out(real)])
    if len(values) > 1:
        by_samples = _of_repeats(values)
    else:
        by_samples = _jackknife([distance(real, left) for left in _leave_one_out(first)])
    return _estimate(values, [by_real, by_samples])


def _estimate(values: Sequence[float], variances: Sequence[_Variance]) -> Estimate:
    mean, total = float(np.mean(values)), sum(each.value for each in variances)
    if not variances:
        return Estimate(mean, None, len(values))
    if total == 0:
        return Estimate(mean, 0.0, len(values))
    degrees = total**2 / sum(each.value**2 / each.degrees for each in variances)
    return Estimate(mean, float(stats.t.ppf(0.975, degrees)) * total**0.5, len(values))


def _of_repeats(values: Sequence[float]) -> _Variance:
    return _Variance(float(np.var(values, ddof=1)) / len(values), len(values) - 1)


def _jackknife(values: Sequence[float]) -> _Variance:
    count = len(values)
    return _Variance((count - 1) * float(np.var(values)), count - 1)


def _leave_one_out(parts: Sequence[Part]) -> list[list[Part]]:
    return [[*parts[:i], *parts[i + 1 :]] for i in range(len(parts))]
