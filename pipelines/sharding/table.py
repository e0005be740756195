"""Tables of videos: CSV, Parquet or JSON-lines.

A table of labels has the columns `path` and `label`. A list of videos has `path`, `uri` or `url`.
Optional are `label`, `split` (train or val), `start_s` and `end_s` (the part to take), `fps` (the
rate to cut at); all others pass through, but for those that hold bytes.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from pipelines.io import storage
from pipelines.io.records import CHUNK
from pipelines.sharding.columns import as_text, chosen
from pipelines.sharding.manifest import utf8
from pipelines.sharding.settings import Selection
from pipelines.sharding.splits import SPLIT_OF
from vqvdm.errors import UserError

TEXT, NUMBERS = ("path", "label", "split"), ("start_s", "end_s", "fps")
KNOWN = (*TEXT, *NUMBERS)
PLACES = ("path", "uri", "url")
"""Columns that name the videos of a list: the first that is there."""
SUFFIXES = (".csv", ".jsonl", ".parquet")
REPEATED = ("label", "split")
"""Columns of few values."""
CAPTION = "caption"
"""A column that is always text."""
INTEGER = "^(0|-?[1-9][0-9]*)$"
DECIMAL = (
    r"^(0|-?[1-9][0-9]{0,14}|-?(0|[1-9][0-9]{0,14})\.[0-9]{1,17}|"
    r"-?[1-9](\.[0-9]{1,17})?e[-+][0-9]{2})$"
)
"""A number as Python, pandas and formats such as `%.2f` write it."""
TRUTHS = (("true", "false"), ("True", "False"), ("TRUE", "FALSE"))


@dataclass(frozen=True)
class Row:
    """One video, or a part of one."""

    path: str
    label: str | None = None
    split: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    fps: float | None = None
    columns: str | None = None
    """Further columns, as the text of a JSON object."""


@dataclass(frozen=True)
class Reader:
    """Reads tables that a flag names; errors are one line with flag, table and row."""

    flag: str
    selection: Selection
    """It says which further columns to keep."""

    def labels(self, uri: str) -> Iterator[Row]:
        """The rows of a table of labels."""
        table = self._read(uri)
        if not {"path", "label"} <= set(table.column_names):
            raise UserError(f"{self.flag} {uri}: needs the columns path and label")
        return self._filled(table, uri)

    def videos(self, uri: str) -> Iterator[Row]:
        """The rows of a list of videos."""
        table = self._read(uri)
        place = next((name for name in PLACES if name in table.column_names), None)
        if place is None:
            raise UserError(f"{self.flag} {uri}: needs a column path, uri or url")
        names = ["path" if name == place else name for name in table.column_names]
        return self._filled(table.rename_columns(names), uri)

    def _filled(self, table: pa.Table, uri: str) -> Iterator[Row]:
        if not table.num_rows:
            raise UserError(f"{self.flag} {uri}: holds no rows")
        try:
            for start in range(0, table.num_rows, CHUNK):
                yield from self.rows(table.slice(start, CHUNK), uri, start)
        except UnicodeDecodeError as error:
            raise UserError(f"{self.flag} {uri}: is not text in UTF-8: {error}") from None

    def rows(self, table: pa.Table, uri: str, first: int = 0) -> Iterator[Row]:
        """The rows of a part of a table, whose first has this number. Without a column `path` the
        path is empty."""
        known = {
            name: self._column(table, name, uri) for name in KNOWN if name in table.schema.names
        }
        names = [name for name in table.column_names if name not in KNOWN]
        if FURTHER in names:
            further = table.column(FURTHER).to_pylist()
        else:
            names = chosen(names, self.selection, f"{self.flag} {uri}")
            for name in names:
                self._once(table, name, uri)
            further = [as_text(row) for row in table.select(names).to_pylist()] if names else []
        for number in range(table.num_rows):
            values = {name: column[number] for name, column in known.items()}
            row = self._checked(first + number, values, uri)
            yield Row(**row, columns=further[number] if further else None)

    def _read(self, uri: str) -> pa.Table:
        suffix = PurePosixPath(uri).suffix.lower()
        if suffix not in SUFFIXES:
            raise UserError(f"{self.flag} {uri}: expected a file in {', '.join(SUFFIXES)}")
        try:
            content = storage.read_bytes(uri)
            if suffix == ".csv":
                return read_csv(content)
            data = io.BytesIO(content)
            if suffix == ".parquet":
                names = text_columns(pq.read_schema(data))
                return pq.read_table(data, columns=names)
            return pa.table(self._json_columns(data, uri))
        except FileNotFoundError:
            cure = "; or pass folder or none" if self.flag == "--labels" else ""
            raise UserError(f"{self.flag} {uri}: no such file{cure}") from None
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.flag} {uri}: is no valid {suffix[1:]} table: {error}") from None

    def _json_columns(self, lines: Iterable[bytes], uri: str) -> dict[str, list[Any]]:
        """The known columns of JSON-lines, and the others as text; Arrow's own reader ends the
        process at a line `null`."""
        rows: list[dict[str, Any]] = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{self.flag} {uri}: line {number} is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise UserError(
                    f"{self.flag} {uri}: line {number} is no object with path and label"
                )
            for name in (*KNOWN, *PLACES):
                if isinstance(row.get(name), bool | list | dict):
                    raise UserError(
                        f"{self.flag} {uri}: line {number}: {name} is no text or number"
                    )
            rows.append(row)
        place = next((name for name in PLACES if any(name in row for row in rows)), "path")
        known = dict.fromkeys((place, *KNOWN))
        columns = {
            name: [None if (value := row.get(name)) is None else utf8(str(value)) for row in rows]
            for name in known
            if any(name in row for row in rows)
        }
        others = dict.fromkeys(name for row in rows for name in row if name not in known)
        if names := chosen(others, self.selection, f"{self.flag} {uri}"):
            columns[FURTHER] = [as_text({n: row[n] for n in names if n in row}) for row in rows]
        return columns

    def _column(self, table: pa.Table, name: str, uri: str) -> list[Any]:
        self._once(table, name, uri)
        try:
            kind = pa.string() if name in TEXT else pa.float64()
            return table.column(name).cast(kind).to_pylist()
        except pa.ArrowException as error:
            raise UserError(f"{self.flag} {uri}: column {name}: {error}") from None

    def _once(self, table: pa.Table, name: str, uri: str) -> None:
        if table.column_names.count(name) > 1:
            raise UserError(f"{self.flag} {uri}: has two columns named {name}")

    def _checked(self, number: int, values: dict[str, Any], uri: str) -> dict[str, Any]:
        for problem in _problems(values):
            raise UserError(f"{self.flag} {uri}: row {number + 1}: {problem}")
        values["split"] = SPLIT_OF[values["split"].lower()] if values.get("split") else None
        return {"path": ""} | values


def read_csv(content: bytes) -> pa.Table:
    """A table of CSV, read as text: classes named 007, NA or null stay so. Of the further columns
    those of numbers, and of true and false, have their type if nothing is lost by it."""
    # Without it, line breaks in quotes are only read within a block of 1 MiB.
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    with pa.csv.open_csv(pa.BufferReader(content), parse_options=parse) as reader:
        names = reader.schema.names
    convert = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
    )
    table = pa.csv.read_csv(pa.BufferReader(content), parse_options=parse, convert_options=convert)
    texts = {*KNOWN, *PLACES, CAPTION}
    columns = [
        column if name in texts else typed(column)
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]
    return pa.table(columns, names=table.column_names)


def typed(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts as numbers, or true and false, where all of them are written as such and no two that
    differ become equal; as they are where one is not: `00071`, `1e5`, `nan`, a date.

    One notation goes through a column: `0.5` and `0.50` in one are texts, and 20-digit numbers are.
    """
    if texts.null_count == len(texts):
        return texts
    if _all(pc.match_substring_regex(texts, INTEGER)):
        with suppress(pa.ArrowInvalid):  # Too large a number.
            return texts.cast(pa.int64())
    elif _all(pc.match_substring_regex(texts, DECIMAL)):
        numbers = texts.cast(pa.float64())
        if pc.count_distinct(numbers) == pc.count_distinct(texts):
            return numbers
    for words in TRUTHS:
        if _all(pc.is_in(texts, pa.array([*words, None]))):
            return pc.equal(texts, words[0])
    return texts


def _all(are: pa.ChunkedArray) -> bool:
    """Whether all are true; what is missing does not count."""
    return bool(pc.all(are).as_py())


FURTHER = "\0further"
"""Name of a column that holds all further ones of a row as text; no table has it."""


def text_columns(schema: pa.Schema) -> list[str]:
    """The known columns of a table, and the others that hold no bytes, in any depth."""
    return [field.name for field in schema if field.name in KNOWN or not holds_bytes(field.type)]


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether values of a type are bytes, or contain some."""
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return True
    if pa.types.is_fixed_size_binary(kind):
        return True
    return any(holds_bytes(kind.field(n).type) for n in range(kind.num_fields))


def _problems(values: dict[str, Any]) -> Iterator[str]:
    if "path" in values and not values["path"]:
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
