"""Objects in columns come back as they were, in a bounded number of bytes each."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

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


def test_text_is_sorted_as_python_sorts_it() -> None:
    held = Records(Thing, things(9))
    assert [thing.name for thing in held.sorted_by("name")] == sorted(NAMES)
    ordered = held.sorted_by("name")
    assert ordered.sorted_by("name") is ordered and list(held) == list(things(9))
    assert len(Records(Thing).sorted_by("name")) == 0


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


MEASURE = """
import resource
from pipelines.io.disk import FileInfo
from pipelines.io.records import Records
def files(count):
    for n in range(count):
        path = f"class-{n % 700:03d}/video_{n:010d}.mp4"
        yield FileInfo(f"s3://a-bucket/videos/{path}", n, f"{n:032x}")
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
Records(FileInfo, files(50_000))
before = peak()
held = Records(FileInfo, files(500_000)).sorted_by("uri")
assert sum(1 for _ in held) == 500_000
print((peak() - before) / 450_000)
"""


def test_a_file_of_a_listing_takes_a_third_of_a_kilobyte() -> None:
    """At the peak, with the sort; 0.6 kB and more as objects."""
    command, root = [sys.executable, "-c", MEASURE], Path(__file__).parents[4]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 330
