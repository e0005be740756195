"""Plans in parts are the plans of the whole, and the largest come first."""

import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest

from pipelines.io.markers import shard_name
from pipelines.sharding import plans as module
from pipelines.sharding.clip_shards import DecodeLimits
from pipelines.sharding.clips import ClipSpec
from pipelines.sharding.manifest import Source
from pipelines.sharding.near_duplicates import NearDuplicate
from pipelines.sharding.plan import assign_shards
from pipelines.sharding.plans import Plans
from pipelines.sharding.source_table import SourceTable

SPEC = ClipSpec(frames=16, size=128, stride=16, rates=(None,), classes=("class",))


def planned(count: int, size_of: Callable[[int], int | None]) -> Plans:
    sources = [
        Source(
            f"{n:04d}.mp4", f"/v/{n}", size_of(n), None, n, "class", ["train", "val"][n % 5 == 0]
        )
        for n in range(count)
    ]
    table = SourceTable(sources)
    places = {shard_name(place.split, place.index): place for place in assign_shards(table, 4)}
    return Plans(table, places, SPEC, "clips", DecodeLimits())


def test_parts_need_nothing_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 3)
    plans = planned(40, lambda n: n)
    near = {row: NearDuplicate(39 - row, row) for row in (1, 7, 12, 18)}
    plans = replace(plans, near_duplicates=near, numberings=frozenset({"one", "other"}))
    parts = [pickle.loads(pickle.dumps(part)) for part in plans.parts()]
    assert [len(part) for part in parts] == [3] * (len(plans) // 3) + [len(plans) % 3] * (
        len(plans) % 3 > 0
    )
    whole = list(plans)
    assert [plan for part in parts for plan in part] == whole
    assert sum(len(plan.near_duplicates) for plan in whole) == len(near)
    assert {plan.numberings for plan in whole} == {frozenset({"one", "other"})}
    assert sum(len(part.sources) for part in parts) == 40 + len(near)


def test_shards_of_much_to_do_come_first() -> None:
    plans = planned(40, lambda n: 10_000_000 if n == 33 else 1_000 if n != 3 else None)
    order = plans.largest_first()
    assert sorted(order) == list(range(len(plans)))
    first = plans[order[0]]
    assert "0033.mp4" in {source.path for source in first.sources}
    assert plans.bytes_N.sum() == 10_000_000 + 38 * 1_000
    assert order[1:] == [n for n in range(len(plans)) if n != order[0]]
    # Shards have up to twice as many videos as they should: such stay in order.
    usual = planned(40, lambda n: 1_000 + n)
    assert len({len(plan.sources) for plan in usual}) > 1
    assert usual.largest_first() == list(range(len(usual)))
    assert planned(40, lambda n: None).largest_first() == list(range(len(plans)))
