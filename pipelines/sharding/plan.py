"""Assigning videos to shards, for any number of videos.

They are assigned by linear hashing (Litwin, VLDB 1980): the number of shards grows by one at a
time, and each new shard takes a part of a single old one. So a video that is added, altered or
removed changes its own shard, and sometimes two more, however many there are. Parts of one video
lie in one shard of their split: its file is fetched once for all of them. A span of a large file is
a shard of its own, which no other video changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.io.markers import SPLITS, shard_name, span_shard_name
from pipelines.sharding.source_table import SourceTable
from vqvdm.errors import UserError


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
    if not sizes_N[~sources.is_span_N].any():
        raise UserError(
            "--shard-mb: the listing tells the size of none of these videos: "
            "pass --videos-per-shard instead"
        )
    files_N = sizes_N[sources.whole(rows)]
    total = int(files_N.sum())
    if unknown := np.count_nonzero(files_N == 0):
        known = np.flatnonzero((sizes_N > 0) & ~sources.is_span_N)
        known_N = sizes_N[sources.whole(known)]
        total += int(unknown) * (int(known_N.sum()) // len(known_N))
    return -(-total // shard_bytes)


@dataclass(frozen=True)
class Place:
    """A shard, and the rows of its videos in the table of sources."""

    split: str
    index: int
    """Its number; of a shard of one span the id of that."""
    rows_N: NDArray[np.int64]
    is_span: bool = False

    @property
    def name(self) -> str:
        name = span_shard_name if self.is_span else shard_name
        return name(self.split, self.index)


def assign_shards(
    sources: SourceTable, per_shard: int, shard_bytes: int | None = None
) -> Iterator[Place]:
    """Every shard with its videos: of each split the spans, each by itself, and then in order the
    others, `per_shard` on average, up to twice that.

    With `shard_bytes`, videos of so many bytes on average instead. `UserError` where the listing
    does not tell the size of any. There are no more shards than whole videos.
    """
    is_span_N = sources.is_span_N
    for split in SPLITS:
        rows = sources.rows_of(split)
        spans, rows = rows[is_span_N[rows]], rows[~is_span_N[rows]]
        yield from (Place(split, int(sources.ids_N[row]), np.array([row]), True) for row in spans)
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
