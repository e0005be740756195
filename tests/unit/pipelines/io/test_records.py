"""Objects in columns come back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest

from pipelines.io import records
from pipelines.io.records import Records


@dataclass(frozen=True)
class Thing:
    name: str
    kind: str | None = None
    count: int | None = None
    share: float | None = None
    is_new: bool = False
    note: str | None = None


NAMES = ["b", "", "ü", "b\udcff", "b\ue000", "b\ud83d", "b\U0001f600", "a\0z", "b"]


def things(count: int) -> Iterator[Thing]:
    for n in range(count):
        share = None if n % 3 else n / 7
        yield Thing(NAMES[n % 9], [None, "x", "y\udcff"][n % 3], 2**40 * n, share, n % 2 > 0)


@pytest.mark.parametrize("repeated", [(), ("kind",)])
@pytest.mark.parametrize("count", [0, 1, 4, 23])
def test_objects_come_back(
    count: int, repeated: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "CHUNK", 5)
    there = list(things(count))
    held = Records(Thing, iter(there), repeated)
    assert len(held) == count and list(held) == there == list(held)
    rows = np.arange(count)[::-2]
    assert held.take(rows) == [there[row] for row in rows] == list(held.subset(rows))
    assert list(held.texts("name")) == [thing.name for thing in there]
    assert held.has("note").tolist() == [False] * count
    assert held.has("kind").tolist() == [thing.kind is not None for thing in there]


def test_values_may_come_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "CHUNK", 2)
    there = [*[Thing("a")] * 5, Thing("b", "x", 1, 0.5, True, "n"), *[Thing("c")] * 4]
    for repeated in ((), ("kind", "note")):
        held = Records(Thing, there, repeated)
        assert list(held) == there
        assert held.has("note").tolist() == [thing.note is not None for thing in there]


def test_few_values_are_held_once() -> None:
    held = Records(Thing, things(9), ["kind"])
    codes_N, kinds = held.codes("kind")
    assert [kinds[code] if code >= 0 else None for code in codes_N] == [t.kind for t in things(9)]
    assert sorted(kinds) == ["x", "y\udcff"]
    none = Records(Thing, [Thing("a"), Thing("b")], ["kind"])
    assert none.codes("kind")[0].tolist() == [-1, -1] and none.codes("kind")[1] == []


def test_a_field_is_replaced_in_a_copy() -> None:
    held = Records(Thing, [Thing("a"), Thing("b")])
    other = held.with_column("count", pa.array([3, None], pa.int64()))
    assert list(other) == [Thing("a", count=3), Thing("b")]
    assert list(held) == [replace(thing, count=None) for thing in other]
