"""Frame rates of clips in an index: a few of them, where phones gave each video one of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LISTED = 64
"""Rates that an index lists at most."""
FIELDS = ("fps", "rate_count")
"""What of an index tells the rates."""
TOLERANCE = 1e-3
"""By what part rates may differ that count as one: 29.97 and 30000/1001."""


def summary(clips_of: Mapping[float, int]) -> dict[str, Any]:
    """What an index says of rates, given the number of clips at each.

    `fps` lists them in order; of more than `LISTED`, the least, the greatest, and those that most
    clips have, and `rate_count` says how many there are.
    """
    rates = sorted(clips_of)
    if len(rates) <= LISTED:
        return {"fps": rates}
    common = sorted(rates[1:-1], key=lambda rate: (-clips_of[rate], rate))[: LISTED - 2]
    return {"fps": sorted([rates[0], *common, rates[-1]]), "rate_count": len(rates)}


def of(index: Mapping[str, Any]) -> dict[str, Any]:
    """What an index says of rates, for one that is made from it."""
    return {name: index[name] for name in FIELDS if name in index}


def is_one_of(rate: float, rates: Sequence[float]) -> bool:
    """Whether a rate counts as one of others: within `TOLERANCE` of it."""
    return bool(np.isclose(rate, rates, rtol=TOLERANCE).any())


def others(index: Mapping[str, Any], rates: Sequence[float]) -> list[float]:
    """Those of the rates that are none of the index. Where that lists a part of its rates, all that
    lie between the least and the greatest count as its own."""
    known, is_part = index["fps"], "rate_count" in index
    return [
        rate
        for rate in rates
        if not is_one_of(rate, known) and not (is_part and min(known) <= rate <= max(known))
    ]
