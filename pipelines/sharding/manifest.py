"""The manifest of source videos: the place and the outcome of each.

A video's shard is a function of its path, so that adding or removing a video changes only the
shard it belongs to.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.io import checksums, shards, storage
from pipelines.io.markers import Marker
from pipelines.io.records import TEXT, array_of, schema_of, values_of
from pipelines.video.reasons import FAILURES
from vqvdm.errors import UserError, did_you_mean, listed

DROPPED = pa.struct(
    [
        ("fps", pa.float64()),
        ("start_s", pa.float64()),
        ("reason", pa.string()),
        ("score", pa.float64()),
    ]
)
"""A clip that a filter removed."""

SCORES = pa.struct(
    [
        ("fps", pa.float64()),
        ("start_s", pa.float64()),
        ("brightness", pa.float64()),
        ("motion", pa.float64()),
        ("sharpness", pa.float64()),
        ("change", pa.float64()),
    ]
)
"""A clip, kept or not, and its scores; roots from before there were more have the first two."""

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),
        ("size", pa.int64()),
        ("etag", pa.string()),
        ("mtime_ns", pa.int64()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("duration_s", pa.float64()),
        ("fps", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("codec", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("clips", pa.int32()),
        ("frames", pa.int64()),
        ("score", pa.float64()),
        ("detail", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("dropped", pa.list_(DROPPED)),
    ]
)

SPANS = pa.schema([("span", pa.int64()), ("spans", pa.int64())])
"""Which span of a file it is, from 1, and of how many; there where some files are cut into any."""

PARTS = pa.schema([*SCHEMA, *SPANS, ("scores", pa.list_(SCORES)), ("columns", pa.string())])
"""With the scores of clips, and the further columns as the text of a JSON object."""

CLIP_FIELDS = frozenset(("label", "class_index", "fps", "start_s", "frames", "source"))
"""Names in the `{key}.json` of a clip."""

GROUP, BATCH = 1024, 16
"""Shards of a row group of what is published, and those whose rows are objects at a time."""
CODEC = "zstd"


def video_id(path: str) -> str:
    """The id of a video, from its path relative to the folder of videos."""
    return checksums.digest(path)


@dataclass(frozen=True)
class Source:
    """A source video before it is opened. `path` is relative to the folder of videos."""

    path: str
    uri: str
    size: int | None
    """In bytes; None where only fetching the video tells it."""
    etag: str | None
    mtime_ns: int | None
    label: str | None
    split: str
    start_s: float | None = None
    end_s: float | None = None
    """The part of the video to take; by default all of it."""
    fps: float | None = None
    """The frame rate of its clips, if it has its own."""
    frames_fps: float | None = None
    """The rate of its images, if it is a folder of them."""
    container: str | None = None
    """The tar or Parquet file that holds the video; size, etag and time are the video's as far as
    they are known, or else this file's."""
    position: int | None = None
    """Where in it: the first byte of a tar's member, or the row of a table."""
    refused: str | None = None
    """Why its listing has refused it: a reason, a colon and details."""
    columns: str | None = None
    """Further columns, as the text of a JSON object."""
    span: int | None = None
    """Which span of its file it is, from 1, if the file is cut into spans."""
    spans: int | None = None
    """How many spans the file is cut into: parts of equal length, whose times its header tells."""
    address: str | None = field(default=None, repr=False, compare=False)
    """Where it is fetched, if that is no `uri` to be published; it stands in no account."""

    @cached_property
    def id(self) -> str:
        if self._is_whole:
            return video_id(self.path)
        span = [] if self.span is None else [self.span, self.spans]
        part = [self.path, self.start_s, self.end_s, self.fps, *span]
        return checksums.digest(json.dumps(part))

    @property
    def whole_id(self) -> str:
        """The id of the whole video, which parts and spans of it share."""
        return self.id if self._is_whole else video_id(self.path)

    @property
    def _is_whole(self) -> bool:
        is_all = self.start_s is None and self.end_s is None and self.span is None
        return is_all and self.fps is None

    @property
    def file(self) -> tuple[Any, ...]:
        """What is fetched for it, which may serve other parts of the same video too."""
        return self.uri, self.container, self.position, self.address

    def to_dict(self) -> dict[str, Any]:
        """The fields by name; those that came later only where they are set, so that fingerprints
        and markers made before are known again."""
        values = vars(self)
        return {n: values[n] for n in PUBLISHED if values[n] is not None or n not in LATER}

    @property
    def content(self) -> dict[str, Any]:
        """What its clips depend on: neither where it lies at present, nor its split."""
        return {name: v for name, v in self.to_dict().items() if name not in WHEREABOUTS}


PUBLISHED = tuple(field.name for field in fields(Source) if field.name != "address")
"""Fields of `Source` that may stand in markers and fingerprints."""
IDENTITY = ("path", "start_s", "end_s", "fps", "span", "spans")
"""Fields of `Source` that make its id."""
LATER = frozenset(("container", "position", "refused", "columns", "span", "spans"))
"""Fields of `Source` that came later."""
WHEREABOUTS = frozenset(("uri", "container", "split"))
"""Fields of `Source` that change when a folder is moved, or the videos are split otherwise."""


@dataclass(frozen=True)
class Account:
    """The outcome of a video: `ok`, `partial` or `rejected`, and why."""

    status: str
    reason: str | None
    clips: int
    duration_s: float | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    codec: str | None = None
    frames: int = 0
    """Clean frames decoded."""
    score: float | None = None
    """What a limit or a filter measured."""
    detail: str | None = None
    dropped: list[dict[str, Any]] = field(default_factory=list)
    """Clips that filters removed: fps, start_s, reason, score."""
    scores: list[dict[str, float]] = field(default_factory=list)
    """All clips, if scores are asked for: fps, start_s, and each score by its name."""
    start_s: float | None = None
    end_s: float | None = None
    """Of a span of a file, the part that it is; the last one has no end."""

    def to_dict(self) -> dict[str, Any]:
        """The fields by name; those that came later only where they are set, as in markers that
        were made before."""
        values = vars(self)
        return {n: v for n, v in values.items() if v not in (None, []) or n not in LATER_OF_ACCOUNT}

    @property
    def failed(self) -> bool:
        """Whether the reason is a failure, not a filter."""
        return self.reason in FAILURES


LATER_OF_ACCOUNT = frozenset(("scores", "start_s", "end_s"))
"""Fields of `Account` that came later."""
OF_ACCOUNT = tuple(field.name for field in fields(Account))
_of_source, _of_account = attrgetter(*PUBLISHED), attrgetter(*OF_ACCOUNT)
OF_SOURCE = "source_"
"""What names of columns that hold a field of `Source` begin with."""
ROWS = pa.schema(
    [
        ("id", pa.string()),
        *((OF_SOURCE + name, schema_of(Source).field(name).type) for name in PUBLISHED),
        *(PARTS.field(name) for name in OF_ACCOUNT),
    ]
)
"""All of a source, texts as they are, and of its account."""
BY_SHARD = pa.schema(
    [("name", pa.string()), *((column.name, pa.list_(column.type)) for column in ROWS)]
)
"""A row for each shard: its name, and lists of what `ROWS` has of its videos."""


class ManifestWriter:
    """Collects the manifest of all videos, on disk because it may exceed the memory.

    Shards come in any order; `videos.parquet` has them in the order of their names. Those that are
    in columns already stay so: `known` gives them again, in order, when the manifest is written.
    """

    def __init__(self, folder: Path, known: Callable[[], Iterator[pa.Table]] | None = None) -> None:
        self._known, self._known_names = known, list[str]()
        self._parts = folder / "parts"
        self._folder, self._places = folder, dict[str, tuple[int, int, int]]()
        """Of each shard: where its part starts, its length, and that before compression."""
        self._types: ColumnTypes = {}
        self._has_scores = self._has_spans = False

    def add(self, name: str, accounts: Iterable[tuple[Source, Account]]) -> None:
        """Add the accounts of the videos of a shard."""
        rows = []
        for source, account in accounts:
            rows.append((source.id, *_of_source(source), *_of_account(account)))
            add_types(self._types, source.path, source.columns)
            self._has_scores = self._has_scores or bool(account.scores)
            self._has_spans = self._has_spans or source.span is not None
        part = pickle.dumps(rows)
        compressed = pa.compress(part, CODEC, asbytes=True)
        with open(self._parts, "ab") as file:
            self._places[name] = file.tell(), len(compressed), len(part)
            file.write(compressed)

    def add_known(self, names: list[str], rows: pa.Table) -> None:
        """Add shards that `known` will give, with the `ROWS` of their videos."""
        self._known_names += names
        columns = source_column(rows, "columns")
        if columns.null_count < len(columns):
            paths = values_of(source_column(rows, "path"))
            for path, text in zip(paths, values_of(columns), strict=True):
                add_types(self._types, path, text)
        self._has_scores = self._has_scores or bool(len(_joined(rows["scores"]).flatten()))
        spans = source_column(rows, "span")
        self._has_spans = self._has_spans or spans.null_count < len(spans)

    def publish(self, uri: str, write: Callable[[pa.Table], object] | None = None) -> None:
        """Write `videos.parquet`: a row for each video, a row group for many shards.

        `write` gets what `by_shard` gives.
        """
        whole = self._folder / "videos.parquet"
        types = {n: pa.string() if t == pa.null() else t for n, t in sorted(self._types.items())}
        spans = SPANS if self._has_spans else []
        scores = [PARTS.field("scores")] if self._has_scores else []
        schema = pa.schema([*SCHEMA, *spans, *scores, *types.items()])
        with pq.ParquetWriter(whole, schema) as writer:
            for group in self.by_shard():
                table = _with_columns(_as_published(rows_of(group)), schema)
                writer.write_table(table, row_group_size=max(1, len(table)))
                if write:
                    write(group)
        storage.discard_unfinished(uri)
        storage.publish_file(whole, uri)

    def by_shard(self) -> Iterator[pa.Table]:
        """The manifest of all videos as `BY_SHARD`, `GROUP` shards in each table but the last."""
        names = sorted([*self._places, *self._known_names])
        known = self._known() if self._known else iter(())
        waiting = BY_SHARD.empty_table()
        with open(self._parts, "ab+") as parts:
            for start in range(0, len(names), GROUP):
                group = names[start : start + GROUP]
                made = [name for name in group if name in self._places]
                while len(waiting) < len(group) - len(made):
                    waiting = pa.concat_tables([waiting, next(known).select(BY_SHARD.names)])
                stand = waiting.slice(0, len(group) - len(made))
                waiting = waiting.slice(len(stand))
                table = pa.concat_tables([stand, self._made(parts, made)])
                if len(stand) and made:
                    table = table.take(pc.sort_indices(table["name"]))
                # Known ones come in any pieces: joined, the same content gives the same file.
                yield table.combine_chunks()

    def _made(self, parts: BinaryIO, names: list[str]) -> pa.Table:
        """Shards whose rows are objects."""
        batches, ends = [], [0]
        for start in range(0, len(names), BATCH):
            rows = [self._part(parts, name) for name in names[start : start + BATCH]]
            ends += (ends[-1] + np.cumsum([len(row) for row in rows])).tolist()
            batches.append(_batch(chain.from_iterable(rows)))
        columns = pa.Table.from_batches(batches, ROWS).combine_chunks().columns
        offsets = pa.array(ends, pa.int32())
        lists = [pa.ListArray.from_arrays(offsets, _joined(column)) for column in columns]
        return pa.Table.from_arrays([pa.array(names, pa.string()), *lists], schema=BY_SHARD)

    def _part(self, parts: BinaryIO, name: str) -> list[tuple[Any, ...]]:
        start, length, size = self._places[name]
        parts.seek(start)
        part = pa.decompress(parts.read(length), size, CODEC, asbytes=True)
        return pickle.loads(part)


def _batch(rows: Iterable[tuple[Any, ...]]) -> pa.RecordBatch:
    """Rows in columns; each row has the id, the fields of the source and those of the account."""
    columns = dict(zip(ROWS.names, zip(*rows, strict=True), strict=False))
    arrays = [_array(columns.get(field.name, ()), field.type) for field in ROWS]
    return pa.RecordBatch.from_arrays(arrays, schema=ROWS)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if kind == TEXT:
        return array_of(values, kind)
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        return pa.array(list(map(utf8, values)), kind)


def rows_of(shards: pa.Table) -> pa.Table:
    """The `ROWS` of the videos of shards, which are told as `BY_SHARD`."""
    return pa.table([_joined(shards[name]).flatten() for name in ROWS.names], schema=ROWS)


def _joined(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def source_column(rows: pa.Table, name: str) -> pa.Array:
    """A field of `Source` of all rows; text as bytes, also what UTF-8 lacks."""
    return _joined(rows[OF_SOURCE + name])


def accounts_of(rows: pa.Table) -> list[tuple[Source, Account]]:
    """Rows as objects."""
    sources = zip(*(values_of(source_column(rows, name)) for name in PUBLISHED), strict=True)
    accounts = zip(*(rows[name].to_pylist() for name in OF_ACCOUNT), strict=True)
    of_source = (Source(**dict(zip(PUBLISHED, values, strict=True))) for values in sources)
    of_account = (Account(**dict(zip(OF_ACCOUNT, values, strict=True))) for values in accounts)
    return list(zip(of_source, of_account, strict=True))


def _as_published(rows: pa.Table) -> pa.Table:
    """The columns of `PARTS`: texts in UTF-8."""

    def column(name: str) -> Any:
        if name not in rows.column_names:
            return _text(source_column(rows, name))
        if name in ("start_s", "end_s"):
            # Of a span, the account knows them.
            return pc.coalesce(rows[name], rows[OF_SOURCE + name])
        return rows[name]

    return pa.table(list(map(column, PARTS.names)), schema=PARTS)


def _text(column: pa.Array) -> pa.Array:
    if column.type != TEXT:
        return column
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array(list(map(utf8, values_of(column))), pa.string())


ColumnTypes = dict[str, pa.DataType]
"""Types of further columns by name."""


def add_types(types: ColumnTypes, path: str, columns: str | None) -> None:
    """Add the types of a video's further columns; `UserError` where one has another type before."""
    for name, value in json.loads(columns).items() if columns else ():
        new, old = _type_of(value), types.get(name, pa.null())
        numbers = {pa.int64(), pa.float64()}
        if old in (new, pa.null()):
            types[name] = new
        elif {old, new} == numbers:
            types[name] = pa.float64()
        elif new != pa.null():
            raise UserError(
                f"the column {name} is of type {new} for {path} and {old} for another "
                "video: give it one type, or leave it out by --columns"
            )


def _type_of(value: Any) -> pa.DataType:
    match value:
        case None:
            return pa.null()
        case bool():
            return pa.bool_()
        case int() if -(2**63) <= value < 2**63:
            return pa.int64()
        case int() | float():
            return pa.float64()
    return pa.string()


def _with_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the further columns of a schema in place of their text."""
    texts = table["columns"]
    table = table.select([name for name in schema.names if name in PARTS.names])
    further_fields = list(schema)[len(table.schema) :]
    values = [json.loads(text or "{}") for text in texts.to_pylist()] if further_fields else []
    for further in further_fields:
        column = [_cell(row.get(further.name), further.type) for row in values]
        table = table.append_column(further, pa.array(column, further.type))
    return table


def _cell(value: Any, kind: pa.DataType) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value, sort_keys=True)
    return float(value) if kind == pa.float64() and value is not None else value


def utf8(value: Any) -> Any:
    """Escape what UTF-8 lacks: bytes in names of files, halves of characters in JSON."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def read(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The manifest of videos, or some columns of it."""
    return pq.read_table(io.BytesIO(storage.read_bytes(uri)), schema=SCHEMA, columns=columns)


def has_texts(uri: str, column: str) -> bool:
    """Whether there is a further column of this name that holds texts."""
    with _opened(uri) as file:
        schema = file.schema_arrow
    return column in schema.names and pa.types.is_string(schema.field(column).type)


def texts_of(uri: str, column: str, ids: Collection[str]) -> dict[str, str]:
    """The texts of a column that these videos have, by the ids of the videos, without blanks."""
    wanted, found = pa.array(sorted(ids), pa.string()), dict[str, str]()
    with _opened(uri) as file:
        for batch in file.iter_batches(columns=["id", column]):
            rows = batch.filter(pc.is_in(batch["id"], wanted))
            texts = zip(rows["id"].to_pylist(), rows[column].to_pylist(), strict=True)
            found |= {id: text for id, text in texts if text and text.strip()}
    return found


@contextmanager
def _opened(uri: str) -> Iterator[pq.ParquetFile]:
    """The manifest of videos, of which no more is read than is asked for."""
    named = shards.missing_is_named(uri, "shard_videos")
    with named, storage.opened(uri) as file, pq.ParquetFile(file) as table:
        yield table


def captioned(uri: str, column: str) -> int:
    """Videos that gave clips and have a text in a further column; `UserError` where there is no
    such column, or it holds no texts."""
    with shards.missing_is_named(uri, "shard_videos"):
        file = pq.ParquetFile(io.BytesIO(storage.read_bytes(uri)))
    further = [name for name in file.schema_arrow.names if name not in PARTS.names]
    if column not in further:
        raise UserError(
            f"no video has a column {column!r}: {did_you_mean(column, further)}There: "
            f"{listed(further) or 'none'}; docs/videos.md says how captions come in"
        )
    table = file.read([column, "clips"])
    kind = table[column].type
    if not (pa.types.is_string(kind) or pa.types.is_null(kind)):
        raise UserError(
            f"the column {column!r} holds {kind}: a caption is a text; pass the --caption-column "
            "that holds one"
        )
    texts, clips = table[column].to_pylist(), table["clips"].to_pylist()
    return sum(
        bool(text and text.strip() and count) for text, count in zip(texts, clips, strict=True)
    )


def from_marker(details: dict[str, Any]) -> list[tuple[Source, Account]]:
    """The accounts of videos in the marker of a clip shard."""
    return [(Source(**row["source"]), Account(**row["account"])) for row in details["videos"]]


def to_marker(accounts: list[tuple[Source, Account]]) -> dict[str, Any]:
    """The inverse of `from_marker`."""
    return json.loads(json.dumps(_as_rows(accounts)))


def digest(accounts: list[tuple[Source, Account]]) -> str:
    """Fingerprint of the accounts of a shard."""
    return checksums.fingerprint(_as_rows(accounts))


def _as_rows(accounts: list[tuple[Source, Account]]) -> dict[str, Any]:
    rows = [
        {"source": source.to_dict(), "account": account.to_dict()} for source, account in accounts
    ]
    return {"videos": rows}


def at_present(details: dict[str, Any], sources: Iterable[Source]) -> list[tuple[Source, Account]]:
    """The accounts in the marker of a clip shard, with its videos as they are listed now."""
    listed = {tuple(getattr(source, name) for name in IDENTITY): source for source in sources}
    found = [
        (listed.pop(tuple(map(row["source"].get, IDENTITY))), Account(**row["account"]))
        for row in details["videos"]
    ]
    assert not listed, listed
    return found


def reconcile(accounts: Iterable[tuple[Source, Account]], marker: Marker) -> None:
    """Assert that the clips of the videos of a shard add up."""
    clips = sum(account.clips for _, account in accounts)
    assert clips == len(marker.keys), clips
    for _, account in accounts:
        assert (account.status == "ok") == (account.reason is None), account
        assert (account.status == "rejected") == (account.clips == 0), account
