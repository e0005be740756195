"""The plans of all shards, and how they reach the workers: in parts, in columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipelines.sharding.clip_shards import DecodeLimits, ShardPlan
from pipelines.sharding.clips import ClipSpec
from pipelines.sharding.near_duplicates import NearDuplicate
from pipelines.sharding.perceptual_hash import FRAMES
from pipelines.sharding.plan import Place
from pipelines.sharding.source_table import SourceTable

PART = 256
"""Shards of a part, which a worker fetches for the first of them: some megabytes."""
LARGE = 4
"""How many times the mean a shard has that comes first; twice the mean is usual."""


@dataclass
class Plans:
    """The plans of shards in order; each is made an object only when it is needed."""

    sources: SourceTable
    places: dict[str, Place]
    spec: ClipSpec
    folder: str
    decode_limits: DecodeLimits
    near_duplicates: dict[int, NearDuplicate] = field(default_factory=dict)
    """Near-duplicates, by row."""
    listed_classes: set[str] = field(default_factory=set)
    """Classes of all videos, also of those that give no clip."""
    numberings: frozenset[str] = frozenset()
    """Numberings of classes that an index has published. Shards keep such a one: whoever trains
    numbers the labels by the index. All others get that of the classes now."""

    owner: str | None = None
    """Id of the holder of the folder's lock, which its workers have to see."""

    def with_classes(self, classes: Iterable[str]) -> Plans:
        """The same for other classes."""
        return replace(self, spec=replace(self.spec, classes=tuple(sorted(classes))))

    def only(self, names: Iterable[str]) -> Plans:
        """The plans of some shards."""
        return replace(self, places={name: self.places[name] for name in names})

    @cached_property
    def bytes_N(self) -> NDArray[np.int64]:
        """The size of the videos of each shard, as far as the listing tells it."""
        sizes_N, whole = self.sources.sizes_N, self.sources.whole
        found = [sizes_N[whole(place.rows_N)].sum() for place in self.places.values()]
        return np.array(found, np.int64)

    def largest_first(self) -> list[int]:
        """The numbers of all plans, those of much to do first: begun last, they would hold up the
        end. Those of up to `LARGE` times the mean are in order."""
        usual = LARGE * max(1.0, float(self.bytes_N.mean()))
        exponents_N = np.maximum(0, np.frexp(self.bytes_N / usual)[1])
        return np.argsort(-exponents_N, kind="stable").tolist()

    def note_on_spans(self) -> list[str]:
        """A line on how many of the videos are spans of files, if any are."""
        spans = np.flatnonzero(self.sources.is_span_N)
        if not len(spans):
            return []
        files = len(np.unique(self.sources.first_spans_N[spans]))
        large = f"{files} large files" if files > 1 else "1 large file"
        return [f"note: {len(spans)} of these videos are spans of {large}"]

    def parts(self) -> Iterator[Plans]:
        """All plans, `PART` in each but the last, which need nothing of the others."""
        for start in range(0, len(self), PART):
            yield self._part(self._names[start : start + PART])

    def _part(self, names: list[str]) -> Plans:
        sizes = [len(self.places[name].rows_N) for name in names]
        ends = np.cumsum(sizes).tolist()
        of_videos = np.concatenate([self.places[name].rows_N for name in names])
        found = {
            place: self.near_duplicates[row]
            for place, row in enumerate(of_videos.tolist())
            if row in self.near_duplicates
        }
        # What near-duplicates are compared with comes after the videos.
        kept = [each.kept for each in found.values()]
        rows = np.concatenate([of_videos, np.array(kept, np.int64)])
        return replace(
            self,
            sources=self.sources.subset(rows),
            places={
                name: replace(self.places[name], rows_N=np.arange(end - size, end))
                for name, size, end in zip(names, sizes, ends, strict=True)
            },
            near_duplicates={
                place: replace(each, kept=len(of_videos) + number)
                for number, (place, each) in enumerate(found.items())
            },
        )

    @cached_property
    def _names(self) -> list[str]:
        return list(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> ShardPlan:
        name = self._names[number]
        rows_N = self.places[name].rows_N
        sources = tuple(self.sources.take(rows_N))
        duplicates = {}
        for row, source in zip(rows_N.tolist(), sources, strict=True):
            if found := self.near_duplicates.get(row):
                [kept] = self.sources.take(np.array([found.kept]))
                duplicates[source.id] = kept.path, found.bits / FRAMES
        return ShardPlan(
            self.folder,
            name,
            sources,
            self.spec,
            self.decode_limits,
            duplicates,
            self.numberings,
        )

    def __iter__(self) -> Iterator[ShardPlan]:
        return (self[number] for number in range(len(self)))
