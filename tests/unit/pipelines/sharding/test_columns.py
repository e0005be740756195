"""Further columns: values keep their type, names that are taken are refused."""

import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sharding import columns, manifest
from pipelines.sharding.manifest import Account, Source
from pipelines.sharding.settings import Selection
from vqvdm.errors import UserError


def published(folder: Path, *rows: dict | None) -> pa.Table:
    """`videos.parquet` of one video for each of these columns, in two shards."""
    writer = manifest.ManifestWriter(folder)
    for number, row in enumerate(rows):
        path = f"{number}.mp4"
        text = columns.as_text(row or {})
        source = Source(path, path, 1, None, None, None, "train", columns=text)
        writer.add(f"train-{number:06d}", [(source, Account("ok", None, 1))])
    writer.publish(f"{folder}/videos.parquet")
    return pq.read_table(folder / "videos.parquet")


def test_types_are_kept(tmp_path: Path) -> None:
    table = published(
        tmp_path,
        {"caption": "ü", "n": 2**40, "x": 1, "free": True, "tags": ["a", {"b": 1}], "none": None},
        {"caption": None, "n": -1, "x": 0.5, "free": None, "tags": {}, "late": 2**70},
        None,
    )
    assert table.select(manifest.SCHEMA.names).schema.equals(manifest.SCHEMA)
    types = {f.name: f.type for f in list(table.schema)[len(manifest.SCHEMA) :]}
    assert types == {
        "caption": pa.string(), "free": pa.bool_(), "late": pa.float64(), "n": pa.int64(),
        "none": pa.string(), "tags": pa.string(), "x": pa.float64(),
    }  # fmt: skip
    first, second, third = table.select(list(types)).to_pylist()
    assert (first["caption"], first["n"], first["x"], first["free"]) == ("ü", 2**40, 1.0, True)
    assert json.loads(first["tags"]) == ["a", {"b": 1}] and second["late"] == 2.0**70
    assert set(third.values()) == {None}


def test_halves_of_characters_are_escaped(tmp_path: Path) -> None:
    """JSON may hold them; UTF-8, and so the account of videos, may not."""
    half = {"caption": "\ud83d", "\ud83d": 1, "tags": ["\ude00", {"\ud83d": None}]}
    [row] = published(tmp_path, half).to_pylist()
    assert (row["caption"], row["\\ud83d"]) == ("\\ud83d", 1)
    assert json.loads(row["tags"]) == ["\\ude00", {"\\ud83d": None}]


def test_without_columns_nothing_is_added(tmp_path: Path) -> None:
    assert published(tmp_path, None, None).schema.equals(manifest.SCHEMA)


@pytest.mark.parametrize(
    ("values", "types"),
    [((1, "a"), "string.*int64"), ((True, 1), "int64.*bool"), ((["a"], 0.5), "double.*string")],
)
def test_a_column_has_one_type(values: tuple, types: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"the column a is of type {types}.*--columns"):
        published(tmp_path, *({"a": value} for value in values))


def test_values_that_json_lacks() -> None:
    found = columns.as_text({
        "day": date(2026, 1, 2), "at": datetime(2026, 1, 2, 3, tzinfo=UTC), "hour": time(3),
        "for": timedelta(minutes=1), "price": Decimal("1.50"), "x": [float("nan"), 1.0],
        "deep": {"y": float("inf")},
    })  # fmt: skip
    assert columns.from_text(found) == {
        "day": "2026-01-02", "at": "2026-01-02T03:00:00+00:00", "hour": "03:00:00", "for": 60.0,
        "price": "1.50", "x": [None, 1.0], "deep": {"y": None},
    }  # fmt: skip


@pytest.mark.parametrize("name", ["id", "status", "class_index", "source", "path", "frames"])
def test_names_that_are_taken_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"t.csv: the column {name} has a name"):
        columns.chosen([name, "caption"], Selection(columns="all"), "t.csv")
    some = Selection(columns="caption, mood")
    assert columns.chosen([name, "caption"], some, "t.csv") == ["caption"]
    assert columns.chosen([name, "caption"], Selection(columns="none"), "t.csv") == []
    with pytest.raises(UserError, match=f"the column {name}"):
        columns.chosen([name], Selection(columns=name), "t.csv")
