"""Frame rates in an index: all of a few, some of many."""

import pytest

from pipelines.io import rates


def test_a_few_rates_are_all_listed() -> None:
    clips_of = {30.0 + n: 1 for n in reversed(range(rates.LISTED))}
    assert rates.summary(clips_of) == {"fps": [30.0 + n for n in range(rates.LISTED)]}


def test_of_many_the_commonest_and_the_range_are_listed() -> None:
    """Thousands of phones, each with a rate of its own, beside two cameras."""
    clips_of = {round(20 + n / 1000, 3): 1 for n in range(5000)} | {25.0: 900, 24.0: 700, 60.0: 1}
    found = rates.summary(clips_of)
    assert len(found["fps"]) == rates.LISTED and found["fps"] == sorted(found["fps"])
    assert {20.0, 24.0, 25.0, 60.0} <= set(found["fps"]) <= set(clips_of)
    assert found["rate_count"] == len(clips_of) == 5002
    assert rates.of({"shape": [1], **found}) == found
    assert rates.others(found, [20.0, 21.2345, 59.0, 60.0, 60.05]) == []
    assert rates.others(found, [19.9, 21.0, 61.0]) == [19.9, 61.0]


@pytest.mark.parametrize("index", [{"fps": [8.0, 29.97]}, {"fps": [8.0, 29.97], "shape": [3]}])
def test_an_index_that_lists_all_knows_no_others(index: dict) -> None:
    assert rates.of(index) == {"fps": [8.0, 29.97]}
    assert rates.others(index, [8.0, 12.0, 30000 / 1001, 30.1]) == [12.0, 30.1]


def test_rates_within_a_thousandth_count_as_one() -> None:
    assert rates.is_one_of(30000 / 1001, [25.0, 29.97]) and rates.is_one_of(30000 / 1001, [30.0])
    assert not rates.is_one_of(24000 / 1001, [25.0, 29.97]) and not rates.is_one_of(8.0, [])
