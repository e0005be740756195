"""Source videos in columns: ten million of them as objects would fill the memory of a laptop."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.io.markers import SPLITS
from pipelines.io.records import Records
from pipelines.sharding.manifest import Source

REPEATED = ("label", "split")
"""Fields of few values."""


class SourceTable(Records[Source]):
    """Source videos; each becomes an object only when it is read."""

    def __init__(self, sources: Iterable[Source] = ()) -> None:
        ids, videos = array("Q"), array("Q")

        def noted() -> Iterator[Source]:
            for source in sources:
                ids.append(int(source.id, 16))
                videos.append(int(source.whole_id, 16))
                yield source

        super().__init__(Source, noted(), REPEATED)
        self.videos_N = np.frombuffer(videos, np.uint64)
        """The ids of whole videos, as numbers: of parts of one video the same."""
        self.ids_N = np.frombuffer(ids, np.uint64)
        if np.array_equal(self.ids_N, self.videos_N):
            self.ids_N = self.videos_N
        """The ids of videos and of parts, as numbers."""

    @property
    def classes(self) -> set[str]:
        """The labels that videos have."""
        codes_N, labels = self.codes("label")
        return {labels[code] for code in np.unique(codes_N[codes_N >= 0])}

    @property
    def sizes_N(self) -> NDArray[np.int64]:
        """The size of each video in bytes, of a part that of the whole, of a span its share; 0
        where the listing does not tell it."""
        sizes_N = _numbers(self.column("size"), 0)
        return sizes_N // _numbers(self.column("spans"), 1) if self.is_span_N.any() else sizes_N

    @property
    def is_span_N(self) -> NDArray[np.bool_]:
        """Which rows are spans of a file."""
        return self.has("span")

    @property
    def first_spans_N(self) -> NDArray[np.int64]:
        """For each span the row of the first one of its file, for any other row itself."""
        rows_N, is_span_N = np.arange(len(self)), self.is_span_N
        if is_span_N.any():
            numbers_N = _numbers(self.column("span"), 1)
            # A table may name a file several times, to be cut at several rates.
            rates_N = np.asarray(pc.fill_null(self.column("fps").cast(pa.float64()), 0.0))
            keys_N = self.videos_N ^ rates_N.view(np.uint64)
            firsts = np.flatnonzero(is_span_N & (numbers_N == 1))
            firsts = firsts[np.argsort(keys_N[firsts])]
            places = np.searchsorted(keys_N[firsts], keys_N[is_span_N])
            rows_N[is_span_N] = firsts[places]
        return rows_N

    def whole(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of these rows, one for each video, the first of its parts; and all spans."""
        apart_N, spans = self.videos_N[rows], self.column("span").take(pa.array(rows))
        if spans.null_count < len(spans):
            is_span_N = spans.is_valid().to_numpy(zero_copy_only=False)
            apart_N = np.where(is_span_N, self.ids_N[rows], apart_N)
        _, first = np.unique(apart_N, return_index=True)
        return rows[first]

    def rows_of(self, split: str) -> NDArray[np.int64]:
        codes_N, splits = self.codes("split")
        return np.flatnonzero(codes_N == splits.index(split)) if split in splits else NO_ROWS

    def subset(self, rows: NDArray[np.int64]) -> Self:
        found = super().subset(rows)
        is_whole = self.ids_N is self.videos_N
        found.videos_N = self.videos_N[rows]
        found.ids_N = found.videos_N if is_whole else self.ids_N[rows]
        return found

    def sort(self) -> None:
        """Sort by path, parts of a video by their start or the number of the span, and then by
        their id; in place, since a copy of millions would take as much again. Text is in the order
        of its characters' numbers, as Python sorts it."""
        paths, is_whole = self.column("path"), self.ids_N is self.videos_N
        if is_whole and (len(self) < 2 or pc.all(pc.less_equal(paths[:-1], paths[1:])).as_py()):
            return  # So does S3 list them.
        keys = pa.table({"path": paths})
        if not is_whole:
            starts = pc.fill_null(self.column("start_s").cast(pa.float64()), 0.0)
            spans = _numbers(self.column("span"), 0)
            keys = pa.table({"path": paths, "start_s": starts, "span": spans, "id": self.ids_N})
        order = pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names])
        del paths, keys
        self._reorder(order)
        self.videos_N = self.videos_N[order.to_numpy()]
        self.ids_N = self.videos_N if is_whole else self.ids_N[order.to_numpy()]

    def with_splits(self, is_val_N: NDArray[np.bool_]) -> Self:
        """The same videos: of the two splits, the second for these, and the first for the rest."""
        codes = pa.array(is_val_N.astype(np.int32))
        words = pa.array(SPLITS, pa.large_binary())
        return self.with_column("split", pa.DictionaryArray.from_arrays(codes, words))


def _numbers(column: pa.Array, default: int) -> NDArray[np.int64]:
    """Whole numbers, of which some may be missing."""
    return np.asarray(pc.fill_null(column.cast(pa.int64()), default))


NO_ROWS = np.empty(0, np.int64)
