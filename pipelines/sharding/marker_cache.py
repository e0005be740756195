"""What markers say of shards of clips that stand, in columns: a re-run need not read them.

`clips/marker_cache.parquet` has a row for each shard: what its marker says, and size and time of
tar and marker by a listing of the folder. While a listing tells the same, and the plan has the same
videos, the shard is known. Of any other the marker is read. Nothing depends on the file being
there: it may be deleted at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.io import storage
from pipelines.io.markers import Listing, Written
from pipelines.sharding.clip_shards import numbering
from pipelines.sharding.clips import ClipSpec
from pipelines.sharding.manifest import BY_SHARD, PUBLISHED, rows_of, source_column
from pipelines.sharding.plans import Plans
from pipelines.sharding.source_table import NO_ROWS
from pipelines.video.reasons import FAILURES

NAME = "marker_cache.parquet"
FORMAT = "1"
"""Changed whenever the same markers and listing would give other content."""
TIME = pa.timestamp("us", "UTC")
DAMAGED = (OSError, ValueError, pa.ArrowException)
"""Errors of reading a file that is damaged."""


@dataclass(frozen=True)
class Shard:
    """What is kept of a finished shard."""

    name: str
    sha256: str
    clips: int
    account: str
    """Fingerprint of its account of videos."""
    numbering: str | None
    """Fingerprint of the classes that its class indices count."""
    tar: Written
    marker: Written
    """Of both files: size and time by the listing that the marker was read after, or just the sizes
    that whoever made or verified the shard has told."""

    @property
    def split(self) -> str:
        return self.name.split("-")[0]


FACTS = pa.schema(
    [
        ("name", pa.string()),
        ("sha256", pa.string()),
        ("clip_count", pa.int64()),
        ("account", pa.string()),
        ("numbering", pa.string()),
        ("tar_bytes", pa.int64()),
        ("tar_written", TIME),
        ("marker_bytes", pa.int64()),
        ("marker_written", TIME),
    ]
)
"""Of a `Shard`; without times if it is not to be known."""
SCHEMA = pa.schema([*FACTS, *(column for column in BY_SHARD if column.name != "name")])


def shards_of(table: pa.Table) -> list[Shard]:
    """The shards of a table of `SCHEMA`."""
    return [
        Shard(
            row["name"],
            row["sha256"],
            row["clip_count"],
            row["account"],
            row["numbering"],
            (row["tar_bytes"], row["tar_written"]),
            (row["marker_bytes"], row["marker_written"]),
        )
        for row in table.select(FACTS.names).to_pylist()
    ]


@dataclass
class MarkerCache:
    """A published file, or none."""

    file: pq.ParquetFile | None
    _known: list[NDArray[np.bool_]] = field(default_factory=list)
    """Which shards of each row group are known."""

    def find(self, plans: Plans, listed: Listing, retry: bool) -> Iterator[pa.Table]:
        """The shards that stand as planned, as `SCHEMA`, in order of names; with `retry` those
        without a failure."""
        self._known.clear()
        for number in range(self.file.num_row_groups if self.file else 0):
            assert self.file
            try:
                table = self.file.read_row_group(number)
            except DAMAGED:  # These markers are read.
                self._known.append(np.zeros(0, bool))
                continue
            self._known.append(_are_known(table, plans, listed, retry))
            yield table.filter(pa.array(self._known[-1]))

    def again(self) -> Iterator[pa.Table]:
        """What `find` gave last."""
        for number, known in enumerate(self._known):
            if self.file and known.any():
                yield self.file.read_row_group(number).filter(pa.array(known))


def _are_known(table: pa.Table, plans: Plans, listed: Listing, retry: bool) -> NDArray[np.bool_]:
    """Which shards of a table are there as planned, and as it tells them."""
    shards = shards_of(table)
    places = [plans.places.get(shard.name) for shard in shards]
    videos_N = pc.list_value_length(table["id"]).to_numpy()
    numberings = {numbering(plans.spec.classes), *plans.numberings}
    own = listed[NAME][1] if NAME in listed else None
    known_N = np.array(
        [
            place is not None
            and len(place.rows_N) == videos
            and shard.numbering in numberings
            and _is_as_listed(shard, listed, own)
            for shard, place, videos in zip(shards, places, videos_N, strict=True)
        ],
        bool,
    )
    rows_N = [place.rows_N for place, known in zip(places, known_N, strict=True) if place and known]
    rows = rows_of(table.filter(pa.array(known_N)))
    is_same_N = _are_same(rows, plans, np.concatenate(rows_N or [NO_ROWS]))
    if retry:
        failed = pc.is_in(rows["reason"], pa.array(sorted(FAILURES)))
        is_same_N &= ~failed.to_numpy()
    shard_N = np.repeat(np.flatnonzero(known_N), videos_N[known_N])
    known_N[shard_N[~is_same_N]] = False
    return known_N


def _is_as_listed(shard: Shard, listed: Listing, own: datetime | None) -> bool:
    """Whether tar and marker are the files that they were.

    Some stores tell times in seconds. What was written in the second of this file itself, or later,
    may have been written twice, once before it and once after.
    """
    files = [listed.get(f"{shard.name}.{kind}") for kind in ("tar", "json")]
    if files != [shard.tar, shard.marker]:
        return False
    return bool(own and shard.tar[1] and shard.marker[1] and shard.tar[1] <= shard.marker[1] < own)


def _are_same(rows: pa.Table, plans: Plans, rows_N: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which videos are listed now, in these rows, as they were."""
    is_same_N = np.ones(len(rows_N), bool)
    for name in PUBLISHED:
        then = source_column(rows, name)
        now = plans.sources.column(name).take(pa.array(rows_N)).cast(then.type)
        both_none = pc.and_(then.is_null(), now.is_null())
        same = pc.fill_null(pc.or_kleene(pc.equal(then, now), both_none), False)
        is_same_N &= same.to_numpy(zero_copy_only=False)
    return is_same_N


@contextmanager
def opened(folder: str, spec: ClipSpec) -> Iterator[MarkerCache]:
    """What a folder of clips that are cut so has published; no shard is known if there is no such
    file, or it cannot be used."""
    with ExitStack() as stack:
        file = None
        with suppress(FileNotFoundError):
            if _applies(spec):
                path = stack.enter_context(storage.local_copy(storage.join(folder, NAME)))
                file = stack.enter_context(_parquet(path, spec))
        yield MarkerCache(file)


@contextmanager
def _parquet(path: str, spec: ClipSpec) -> Iterator[pq.ParquetFile | None]:
    """A file, if it is sound and of such clips."""
    with ExitStack() as stack:
        file = None
        try:
            data = stack.enter_context(pa.OSFile(path))
            file = pq.ParquetFile(data, page_checksum_verification=True)
            schema, wanted = file.schema_arrow, _schema(spec)
            is_ours = schema.equals(wanted) and schema.metadata == wanted.metadata
        except DAMAGED:
            is_ours = False
        yield file if is_ours else None


def _applies(spec: ClipSpec) -> bool:
    """Near-duplicates of other shards are no part of the videos that a plan has."""
    return not spec.filters.min_distance


def _schema(spec: ClipSpec) -> pa.Schema:
    return SCHEMA.with_metadata({"format": FORMAT, "spec_hash": spec.hash})


@contextmanager
def writing(
    folder: str, spec: ClipSpec, shards: list[Shard], listed: Listing, place: Path
) -> Iterator[Callable[[pa.Table], None] | None]:
    """Publish a file in place of the one that is there, once all these shards were given, in tables
    of `BY_SHARD`.

    `listed` is a listing from after the last shard was made; `place` a folder for the file.
    """
    if not (_applies(spec) and any(time for _, time in listed.values())):
        yield None
        return
    of_name = {shard.name: shard for shard in shards}

    def write(table: pa.Table) -> None:
        facts = [_facts(of_name[name], listed) for name in table["name"].to_pylist()]
        columns = pa.Table.from_pylist(facts, FACTS).columns + table.columns[1:]
        writer.write_table(pa.Table.from_arrays(columns, schema=_schema(spec)))

    whole = place / NAME
    with pq.ParquetWriter(
        whole, _schema(spec), compression="zstd", write_page_checksum=True
    ) as writer:
        yield write
    storage.publish_file(whole, storage.join(folder, NAME))


def _facts(shard: Shard, listed: Listing) -> dict[str, Any]:
    tar, marker = shard.tar, shard.marker
    if not (tar[1] and marker[1]):
        # Were they written again since, the sizes would differ, or their order.
        now = [listed.get(f"{shard.name}.{kind}", (0, None)) for kind in ("tar", "json")]
        is_whole = (now[0][0], now[1][0]) == (tar[0], marker[0])
        if is_whole and now[0][1] and now[1][1] and now[0][1] <= now[1][1]:
            tar, marker = now
    values = [shard.name, shard.sha256, shard.clips, shard.account, shard.numbering, *tar, *marker]
    return dict(zip(FACTS.names, values, strict=True))
