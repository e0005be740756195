"""Parquet tables with a column of videos' bytes: rows are listed without it, fetched one by one.

The column is `video`, `mp4` or `bytes`, or else the only one that holds bytes; bytes may also be
the field `bytes` of a column of objects, as Hugging Face's `datasets` writes videos.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.io import storage
from pipelines.io.disk import FileInfo
from pipelines.io.readers import read_all
from pipelines.io.scratch import scratch
from pipelines.sharding.inputs.kind import Listed, Place
from pipelines.sharding.manifest import Source
from pipelines.sharding.settings import Selection
from pipelines.sharding.table import Reader, text_columns
from pipelines.video.reasons import VideoError
from vqvdm.errors import UserError

NAMES = ("video", "mp4", "bytes")
BUFFER = 2**20
"""Bytes of a column that are read ahead."""


def takes(place: Place) -> bool:
    files = [file for file in place.files_of(".parquet") if file.size]
    return bool(files) and _column(files[0]) is not None


def listed(place: Place, selection: Selection) -> Iterator[Listed]:
    if selection.frames_fps is not None:
        raise UserError("--frames-fps: folders of images are not taken from a table")
    files, is_empty = place.files_of(".parquet"), True
    for part in read_all(lambda file: list(_rows(file, place, selection)), files):
        yield from part
        is_empty = is_empty and not part
    if is_empty:
        raise UserError(f"--videos {place.uri}: holds no rows")


def holds(source: Source) -> bool:
    return source.container is not None and source.container.lower().endswith(".parquet")


@contextmanager
def fetch(source: Source) -> Iterator[str]:
    assert source.container is not None and source.position is not None, source
    with scratch() as folder:
        place = folder / f"row{PurePosixPath(source.path).suffix}"
        place.write_bytes(read_video(source.container, source.position))
        yield str(place)


def _rows(file: FileInfo, place: Place, selection: Selection) -> Iterator[Listed]:
    """The videos of one file, a row group at a time."""
    name = place.relative(file.uri)
    if not file.size:
        yield Listed(name, file, file.uri, refused="missing: no such file")
        return
    reader, first = Reader("--videos", selection), 0
    with _opened(file.uri) as table:
        if _find(table.schema_arrow, file.uri) is None:
            raise UserError(f"--videos {file.uri}: has no column of bytes, while others have")
        names = text_columns(table.schema_arrow)
        for group in range(table.num_row_groups):
            rows = table.read_row_group(group, names)
            for number, row in enumerate(reader.rows(rows, file.uri, first), first):
                path = row.path or f"{name}/{number:08d}"
                info = FileInfo(f"{file.uri}/{number}", 0, file.etag, file.mtime_ns)
                yield Listed(path, info, file.uri, number, is_sized=False, row=row)
            first += table.metadata.row_group(group).num_rows


@contextmanager
def _table(uri: str) -> Iterator[pq.ParquetFile]:
    """An open table; `pyarrow.ArrowException` where it is damaged."""
    # By default a whole column of a row group is read ahead.
    options: dict[str, Any] = {"buffer_size": BUFFER, "pre_buffer": False}
    with storage.opened(uri) as file, _damage(), pq.ParquetFile(file, **options) as table:
        yield table


@contextmanager
def _damage() -> Iterator[None]:
    """Arrow tells some damage by a plain `OSError`, which would pass for one of storage."""
    try:
        yield
    except OSError as error:
        # Those of storage have a number, or are of a class of their own.
        if type(error) is not OSError or error.errno is not None:
            raise
        raise pa.ArrowInvalid(str(error)) from error
    except UnicodeDecodeError as error:
        raise pa.ArrowInvalid(f"text that is not UTF-8: {error}") from error


@contextmanager
def _opened(uri: str) -> Iterator[pq.ParquetFile]:
    try:
        with _table(uri) as table:
            yield table
    except pa.ArrowException as error:
        raise UserError(f"--videos {uri}: is no valid parquet table: {error}") from None


def _column(file: FileInfo) -> str | None:
    with _opened(file.uri) as table:
        return _find(table.schema_arrow, file.uri)


def _find(schema: pa.Schema, uri: str) -> str | None:
    """The path of the column that holds videos; None if none holds bytes."""
    found = {}
    for field in schema:
        if _is_bytes(field.type):
            found[field.name] = field.name
        elif pa.types.is_struct(field.type):
            inner = field.type.get_field_index("bytes")
            if inner >= 0 and _is_bytes(field.type.field(inner).type):
                found[field.name] = f"{field.name}.bytes"
    for name in (*NAMES, *(found if len(found) == 1 else ())):
        if name in found:
            return found[name]
    if found:
        names = " and ".join(found)
        raise UserError(f"--videos {uri}: {names} hold bytes: call the column of videos video")
    return None


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def read_video(uri: str, row: int) -> bytes:
    """The bytes of one row; `VideoError` if it has none or cannot be read.

    Of its row group, what comes before it is read too, a page at a time; a page may be as large as
    the row group.
    """
    try:
        with _table(uri) as table:
            column = _find(table.schema_arrow, uri)
            assert column is not None, uri
            for group in range(table.num_row_groups):
                count = table.metadata.row_group(group).num_rows
                if row < count:
                    return _cell(table, group, row, column)
                row -= count
    except pa.ArrowException as error:
        raise VideoError("unreadable", f"the table cannot be read: {error}") from error
    raise VideoError("missing", "the table has no such row any more")


def _cell(table: pq.ParquetFile, group: int, row: int, column: str) -> bytes:
    batches = table.iter_batches(1, row_groups=[group], columns=[column], use_threads=False)
    for number, batch in enumerate(batches):
        if number == row:
            value: Any = batch.column(0)[0].as_py()
            value = value["bytes"] if isinstance(value, dict) else value
            if not value:
                raise VideoError("empty", "the row has no bytes")
            return value
    raise VideoError("missing", "the row group ends before the row")
