"""Assigning videos to shards, for any number of videos.

Videos are held in columns: ten million of them as objects would fill the memory of a laptop.
They are assigned by linear hashing (Litwin, VLDB 1980): the number of shards grows by one at a
time, and each new shard takes a part of a single old one. So a video that is added, altered or
removed changes its own shard, and sometimes two more, however many there are. Parts of one video
lie in one shard of their split: its file is fetched once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, get_args, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.io.markers import SPLITS
from pipelines.sharding.manifest import Source
from vqvdm.errors import UserError

CHUNK = 1 << 14
TYPES = {str: pa.large_binary(), int: pa.int64(), float: pa.float64()}
REPEATED = frozenset(("label", "split"))
"""Columns of few values: each is kept once."""


def _schema() -> pa.Schema:
    """A column for each field of a source."""
    hints = get_type_hints(Source)
    columns = []
    for field in fields(Source):
        kinds = (hints[field.name], *get_args(hints[field.name]))
        kind = next(TYPES[kind] for kind in kinds if kind in TYPES)
        if field.name in REPEATED:
            kind = pa.dictionary(pa.int32(), kind)
        columns.append((field.name, kind))
    return pa.schema(columns)


def _stored(value: Any) -> Any:
    """Text as bytes: a file name need not be UTF-8."""
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def _restored(value: Any) -> Any:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


class SourceTable:
    """Source videos in columns; a video becomes an object only when it is read."""

    def __init__(self, sources: Iterable[Source]) -> None:
        schema, batches, videos = _schema(), [], [np.empty(0, np.uint64)]
        waiting = iter(sources)
        while chunk := list(islice(waiting, CHUNK)):
            rows = {name: [_stored(getattr(s, name)) for s in chunk] for name in schema.names}
            batches.append(pa.RecordBatch.from_pydict(rows, schema))
            videos.append(np.array([int(source.whole_id, 16) for source in chunk], np.uint64))
        self.videos_N = np.concatenate(videos)
        """The ids of whole videos, as numbers: of parts of one video the same."""
        table = pa.Table.from_batches(batches, schema)
        del batches
        self._columns: list[pa.Array] = []
        for _ in schema.names:
            # One column after the other: each takes twice its memory while its chunks are joined.
            empty = 0 < table.column(0).null_count == len(table)
            column = pa.nulls(len(table)) if empty else table.column(0).combine_chunks()
            self._columns.append(column)
            table = table.remove_column(0)
            # Otherwise Arrow would keep the memory of the chunks for later use.
            pa.default_memory_pool().release_unused()

    @property
    def classes(self) -> set[str]:
        """The labels that videos have."""
        labels = self._columns[_schema().get_field_index("label")]
        return {_restored(label) for label in pc.unique(labels).to_pylist()} - {None}

    @property
    def sizes_N(self) -> NDArray[np.int64]:
        """The size of each video in bytes, of a part that of the whole; 0 where the listing does
        not tell it."""
        sizes = self._columns[_schema().get_field_index("size")]
        return np.asarray(pc.fill_null(sizes.cast(pa.int64()), 0))

    def whole(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of these rows, one for each video: the first of its parts."""
        _, first = np.unique(self.videos_N[rows], return_index=True)
        return rows[first]

    def subset(self, rows: NDArray[np.int64]) -> SourceTable:
        """A table of these rows, in the order asked for."""
        table = SourceTable(())
        table.videos_N = self.videos_N[rows]
        table._columns = [column.take(pa.array(rows)) for column in self._columns]
        return table

    def __len__(self) -> int:
        return len(self.videos_N)

    def rows_of(self, split: str) -> NDArray[np.int64]:
        column = self._columns[_schema().get_field_index("split")]
        code = pc.index(column.dictionary, split.encode())
        return np.flatnonzero(column.indices.to_numpy() == code.as_py())

    def take(self, rows: NDArray[np.int64]) -> list[Source]:
        """The sources of these rows, in the order asked for."""
        columns = [column.take(pa.array(rows)).to_pylist() for column in self._columns]
        return [Source(*map(_restored, values)) for values in zip(*columns, strict=True)]


def shard_of(bucket_N: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
    """The shard, of `count`, that each number in [0, 2^32) falls into.

    Let P be the largest power of two up to `count`. Each shard from number P on has taken half of
    the shard P positions before it.
    """
    start = 1 << (count.bit_length() - 1)
    early = bucket_N % start
    return np.where(early < count - start, bucket_N % (2 * start), early).astype(np.int64)


def _by_bytes(sources: SourceTable, rows: NDArray[np.int64], shard_bytes: int) -> int:
    """How many shards hold so many bytes of videos each.

    A video of unknown size counts as much as the others on average, of both splits.
    """
    sizes_N = sources.sizes_N
    if not sizes_N.any():
        raise UserError(
            "--shard-mb: the listing tells the size of none of these videos: "
            "pass --videos-per-shard instead"
        )
    files_N = sizes_N[sources.whole(rows)]
    total = int(files_N.sum())
    if unknown := np.count_nonzero(files_N == 0):
        known_N = sizes_N[sources.whole(np.flatnonzero(sizes_N))]
        total += int(unknown) * (int(known_N.sum()) // len(known_N))
    return -(-total // shard_bytes)


@dataclass(frozen=True)
class Place:
    """A shard, and the rows of its videos in the table of sources."""

    split: str
    index: int
    rows_N: NDArray[np.int64]


def assign_shards(
    sources: SourceTable, per_shard: int, shard_bytes: int | None = None
) -> Iterator[Place]:
    """Every shard in order with its videos: `per_shard` on average, up to twice that.

    With `shard_bytes`, videos of so many bytes on average instead. `UserError` where the listing
    does not tell the size of any. There are no more shards than whole videos.
    """
    for split in SPLITS:
        rows = sources.rows_of(split)
        if not len(rows):
            continue
        count = _by_bytes(sources, rows, shard_bytes) if shard_bytes else -(-len(rows) // per_shard)
        count = min(count, len(sources.whole(rows)))
        shards = shard_of(sources.videos_N[rows] % 2**32, count)
        rows = rows[np.argsort(shards, kind="stable")]
        ends = np.cumsum(np.bincount(shards, minlength=count))
        for index, end in enumerate(ends):
            start = ends[index - 1] if index else 0
            yield Place(split, index, rows[start:end])
