"""A table of videos: CSV, Parquet or JSON-lines with the columns `path` and `label`.

Optional columns: `split` (train or val), `start_s` and `end_s` (the part to take), `fps` (the
rate to cut at). A path is relative to the folder of videos, absolute, or a URI.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipelines.io import storage
from pipelines.sharding.splits import SPLIT_OF
from vqvdm.errors import UserError

TEXT, NUMBERS = ("path", "label", "split"), ("start_s", "end_s", "fps")


@dataclass(frozen=True)
class Row:
    """One video, or a part of one."""

    path: str
    label: str | None
    split: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    fps: float | None = None


def read_table(uri: str) -> list[Row]:
    """The rows of a table; `UserError` names a problem and its row."""
    table = _read(uri)
    if not {"path", "label"} <= set(table.column_names):
        raise UserError(f"--labels {uri}: needs the columns path and label")
    columns: dict[str, list] = {}
    for name in (*TEXT, *NUMBERS):
        if name in table.column_names:
            columns[name] = _column(table, name, uri)
    if not table.num_rows:
        raise UserError(f"--labels {uri}: holds no rows")
    return [
        _checked(number, {name: values[number] for name, values in columns.items()}, uri)
        for number in range(table.num_rows)
    ]


def _read(uri: str) -> pa.Table:
    suffix = PurePosixPath(uri).suffix.lower()
    if suffix not in (".csv", ".jsonl", ".parquet"):
        raise UserError(f"--labels {uri}: expected a file in .csv, .jsonl, .parquet")
    try:
        data = io.BytesIO(storage.read_bytes(uri))
        if suffix == ".parquet":
            return pq.read_table(data)
        if suffix == ".jsonl":
            return pa.table(_json_columns(data, uri))
        # Labels are text: classes named 007, NA or null stay so.
        types = dict.fromkeys(TEXT, pa.string()) | dict.fromkeys(NUMBERS, pa.string())
        options = pa.csv.ConvertOptions(
            column_types=types, strings_can_be_null=True, null_values=[""]
        )
        return pa.csv.read_csv(data, convert_options=options)
    except FileNotFoundError:
        raise UserError(f"--labels {uri}: no such file; or pass folder or none") from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"--labels {uri}: is no valid {suffix[1:]} table: {error}") from None


def _json_columns(lines: Iterable[bytes], uri: str) -> dict[str, list[Any]]:
    """The known columns of JSON-lines; Arrow's own reader ends the process at a line `null`."""
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"--labels {uri}: line {number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f"--labels {uri}: line {number} is no object with path and label")
        for name in (*TEXT, *NUMBERS):
            if isinstance(row.get(name), bool | list | dict):
                raise UserError(f"--labels {uri}: line {number}: {name} is no text or number")
        rows.append(row)
    names = [name for name in (*TEXT, *NUMBERS) if any(name in row for row in rows)]
    return {
        name: [None if (value := row.get(name)) is None else str(value) for row in rows]
        for name in names
    }


def _column(table: pa.Table, name: str, uri: str) -> list[Any]:
    if table.column_names.count(name) > 1:
        raise UserError(f"--labels {uri}: has two columns named {name}")
    try:
        kind = pa.string() if name in TEXT else pa.float64()
        return table.column(name).cast(kind).to_pylist()
    except pa.ArrowException as error:
        raise UserError(f"--labels {uri}: column {name}: {error}") from None


def _checked(number: int, values: dict[str, Any], uri: str) -> Row:
    for problem in _problems(values):
        raise UserError(f"--labels {uri}: row {number + 1}: {problem}")
    values["split"] = SPLIT_OF[values["split"].lower()] if values.get("split") else None
    return Row(**values)


def _problems(values: dict[str, Any]) -> Iterator[str]:
    if not values["path"]:
        yield "path is empty"
    split = values.get("split")
    if split and split.lower() not in SPLIT_OF:
        yield f"split {split!r} is none of train, val, test"
    start, end, fps = (values.get(name) for name in NUMBERS)
    if start is not None and not 0 <= start < math.inf:
        yield f"start_s {start} must be at least 0"
    if end is not None and not (start or 0.0) < end < math.inf:
        yield f"end_s {end} must come after start_s"
    if fps is not None and not 0 < fps < math.inf:
        yield f"fps {fps} must be above 0"
