"""Numbers of settings are checked by the ranges in their types."""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pytest

from vqvdm.errors import UserError
from vqvdm.ranges import Count, NotNegative, Positive, Range, Share, check_ranges


@dataclass(frozen=True)
class Inner:
    weight: NotNegative = 0.0


@dataclass(frozen=True)
class Settings:
    steps: Count = 1
    rate: Positive = 1.0
    share: Share = 0.0
    decay: Annotated[float, Range(0, 1, open_above=True)] = 0.5
    rank: Annotated[int, Range(2, zero="for none")] = 0
    limit: Count | None = None
    pair: tuple[Share, Share] = (0.0, 1.0)
    blocks: tuple[tuple[Count, Count], ...] = ()
    inner: Inner = Inner()
    name: str = "base"
    on: bool = False


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 10**12},
        {"rate": 5e-324},
        {"share": 0},
        {"share": 1.0},
        {"decay": 0.0},
        {"rank": 2},
        {"limit": 1},
        {"steps": np.int64(3), "rate": np.float32(0.5)},
        {"blocks": ((1, 2), (3, 4))},
        {"inner": Inner(0.0)},
    ],
)
def test_what_lies_within_is_taken(changes: dict[str, Any]) -> None:
    check_ranges(Settings(**changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"rate": 0.0}, "rate must be above 0, not 0.0"),
        ({"rate": math.nan}, "rate must be above 0, not nan"),
        ({"rate": math.inf}, "rate must be above 0, not inf"),
        ({"share": 1.5}, "share must lie in [0, 1], not 1.5"),
        ({"decay": 1.0}, "decay must lie in [0, 1), not 1.0"),
        ({"rank": 1}, "rank must be at least 2, or 0 for none, not 1"),
        ({"limit": -1}, "limit must be at least 1, not -1"),
        ({"pair": (0.5, -math.inf)}, "pair must lie in [0, 1], not -inf"),
        ({"blocks": ((1, 2), (0, 4))}, "blocks must be at least 1, not 0"),
        ({"inner": Inner(-1.0)}, "inner.weight must be at least 0, not -1.0"),
        ({"steps": "1"}, "steps must be at least 1, not 1"),
    ],
)
def test_what_lies_outside_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        check_ranges(Settings(**changes))
    assert str(error.value) == said


def test_the_caller_names_the_field() -> None:
    with pytest.raises(UserError, match=r"^INNER\.WEIGHT must be"):
        check_ranges(Settings(inner=Inner(-1.0)), str.upper)
