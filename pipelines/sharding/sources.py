"""Listing the source videos, with the label and the split of each.

What the videos are is a matter of the kind of input; here they get what makes them sources.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TypeVar

from pipelines.io import checksums
from pipelines.io.markers import SPLITS
from pipelines.sharding.addresses import is_url, without_secrets
from pipelines.sharding.columns import merged, refuse_unknown
from pipelines.sharding.inputs import folder, lists, parquet, tars
from pipelines.sharding.inputs.kind import Kind, Listed, Place
from pipelines.sharding.inputs.lists import as_listed, is_relative, look_up
from pipelines.sharding.manifest import ColumnTypes, Source, add_types
from pipelines.sharding.settings import Selection
from pipelines.sharding.splits import find_list, named_split, split_sources
from pipelines.sharding.table import Reader, Row
from pipelines.video.reasons import VideoError
from vqvdm.errors import UserError

Item = TypeVar("Item")

KINDS: tuple[Kind, ...] = (tars, parquet, lists, folder)
"""Every kind of input: of several that take one, the first. A folder takes whatever is left."""


def list_sources(videos: str, selection: Selection) -> list[Source]:
    """The videos of an input, with label and split; `UserError` where there are none."""
    if is_url(videos):
        raise UserError(
            f"--videos {without_secrets(videos)}: servers do not list their files: pass a .txt "
            "file with a URL a line, or a .csv with a column url"
        )
    selection = replace(selection, val_list=find_list(videos, selection.val_list))
    place = Place(videos, selection.frames_fps is not None)
    found = next(kind for kind in KINDS if kind.takes(place)).listed(place, selection)
    if selection.labels in ("folder", "none"):
        origin, cure = videos, "move it, or pass --labels none"
        del place  # It has the whole listing.
        sources = [_from_input(video, selection) for video in drained(found)]
    else:
        origin, cure = selection.labels, f"give it one in --labels {selection.labels}"
        sources = _from_table(place, found, selection)
    refuse_unknown(selection)
    _refuse_twice(sources, origin)
    sources.sort(key=lambda source: (source.path, source.start_s or 0.0, source.id))
    _refuse_strays(sources, cure)
    _refuse_mixed_columns(sources)
    check_classes({source.label for source in sources if source.label is not None})
    return _with_splits(sources, selection, origin)


def drained(items: list[Item]) -> Iterator[Item]:
    """The items in order; the list lets go of each as it is taken: there may be millions."""
    items.reverse()
    while items:
        yield items.pop()


def sampled(sources: list[Source], count: int) -> list[Source]:
    """So many of the videos in their order: of each split, and in it of each class, the same share.

    More are the same and others, and a video that is added takes the place of at most a few.
    """
    ids: dict[str, dict[str | None, list[str]]] = {split: defaultdict(list) for split in SPLITS}
    for source in sources:
        ids[source.split][source.label].append(source.id)
    by_split = []
    for split, direction in zip(SPLITS, (1, -1), strict=True):
        # Where few classes are reached, those that validation takes are the ones training lacks.
        classes = sorted(ids[split], key=str)[::direction]
        by_split.append(_interleaved([sorted(ids[split][name], key=_rank) for name in classes]))
    # However few videos there are, one is for training, and one for validation.
    first = [of_split[0] for of_split in by_split if of_split]
    chosen = set(list(dict.fromkeys(first + _interleaved(by_split)))[:count])
    return [source for source in sources if source.id in chosen]


def _interleaved(lists: list[list[str]]) -> list[str]:
    """All items, so that the first ones, however many, hold the same share of each list."""
    places = [
        ((rank + 0.5) / len(items), number, item)
        for number, items in enumerate(lists)
        for rank, item in enumerate(items)
    ]
    return [item for _, _, item in sorted(places)]


def _rank(id: str) -> str:
    """A hash for the order within a class: the id itself says which shard a video belongs to, and
    for most videos whether it is for validation."""
    return checksums.digest(f"limit {id}")


class LocalVideos(AbstractContextManager["LocalVideos"]):
    """Fetches videos, one at a time: of several parts of one that follow each other, the first."""

    def __init__(self) -> None:
        self._opened = ExitStack()
        self._file: tuple[object, ...] = ()
        self._path = ""
        self._failure: Exception | None = None

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def path(self, source: Source) -> str:
        """A local path of a video, or of its folder of images, until the next one is asked for.

        Errors are those of `Kind.fetch`, and the same for all parts of a video.
        """
        if source.file != self._file:
            self._opened.close()
            self._file, self._failure = source.file, None
            kind = next(kind for kind in KINDS if kind.holds(source))
            try:
                self._path = self._opened.enter_context(kind.fetch(source))
            except (VideoError, UserError, OSError) as error:
                self._failure = error
        if self._failure:
            raise self._failure
        return self._path


def check_classes(classes: Iterable[str]) -> None:
    """`UserError` where a name is no text or two look the same; prints what differs by case."""
    composed: dict[str, str] = {}
    folded: dict[str, str] = {}
    for name in sorted(classes):
        if name.encode("utf-8", "ignore").decode() != name:
            raise UserError(f"the name of the class {name!r} is not UTF-8: rename its folder")
        twin = composed.setdefault(unicodedata.normalize("NFC", name), name)
        if twin != name:
            raise UserError(
                f"two classes look the same, {name!r}: {twin!a} and {name!a} are written "
                "with different Unicode characters; give both videos one of these names"
            )
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            print(f"note: classes {other!r} and {name!r} differ by case only", flush=True)


def _source(video: Listed, row: Row, label: str | None, split: str, fps: float | None) -> Source:
    file, own = video.file, video.row
    return Source(
        video.path,
        file.uri,
        file.size if video.is_sized else None,
        file.etag,
        file.mtime_ns,
        label,
        split,
        row.start_s,
        row.end_s,
        row.fps,
        frames_fps=fps if file.images else None,
        container=video.container,
        position=video.position,
        refused=video.refused,
        columns=merged(own.columns, row.columns) if own else row.columns,
        address=video.address,
    )


def _from_input(video: Listed, selection: Selection) -> Source:
    """A source as the input itself describes it; its split is empty where that does not say it."""
    row, path = video.row or Row(video.path), video.inner_path or video.path
    split = row.split or ""
    # The path of a video elsewhere tells nothing, nor the number of a row without a path.
    tells = is_relative(path) and row.path
    folders = PurePosixPath(path).parts if tells else ()
    if not video.file.unreadable:  # An unreadable folder gets the label that its videos would have.
        folders = folders[:-1]
    if selection.splits == "folders":
        split = "" if video.refused else named_split(path)
        folders = folders[1:]
    label = row.label or next(iter(folders), None)
    return _source(
        video, row, label if selection.labels == "folder" else None, split, selection.frames_fps
    )


def _from_table(place: Place, found: list[Listed], selection: Selection) -> list[Source]:
    """A source for each row of a table of labels, whether its video was found or not."""
    rows = Reader("--labels", selection).labels(selection.labels)
    spelled = {
        unicodedata.normalize("NFC", name): video
        for video in found
        for name in (video.path, video.address or video.path)
    }
    paths = [as_listed(row.path, place.base) for row in rows]
    videos = [spelled.get(unicodedata.normalize("NFC", path)) for path in paths]
    absent = [path for path, video in zip(paths, videos, strict=True) if video is None]
    elsewhere = iter(look_up(absent, place.base))
    sources = [
        _source(video or next(elsewhere), row, row.label, row.split or "", selection.frames_fps)
        for video, row in zip(videos, rows, strict=True)
    ]
    if not any(source.size or source.etag or source.mtime_ns for source in sources):
        raise UserError(
            f"{selection.labels} names none of the videos under {place.uri}: check its path column"
        )
    return sources


def _refuse_twice(sources: list[Source], origin: str) -> None:
    seen = set[str]()
    for source in sources:
        if source.id in seen:
            raise UserError(f"{origin} lists {source.path} twice: remove one row")
        seen.add(source.id)


def _refuse_strays(sources: list[Source], cure: str) -> None:
    """`UserError` if some videos have a label and others none."""
    listed = [source for source in sources if source.refused is None]
    if len({source.label is None for source in listed}) > 1:
        stray = next(source.path for source in listed if source.label is None)
        raise UserError(f"{stray} has no label while others have: {cure}")


def _refuse_mixed_columns(sources: list[Source]) -> None:
    types: ColumnTypes = {}
    for source in sources:
        add_types(types, source)


def _with_splits(sources: list[Source], selection: Selection, origin: str) -> list[Source]:
    """The splits that the input or the table gives, or else those of --val-list or of chance."""
    given = {bool(source.split) for source in sources if source.refused is None}
    if True not in given:
        return split_sources(sources, selection)
    if False in given:
        raise UserError(f"{origin}: some rows have a split and some have none")
    return [s if s.split else replace(s, split="train") for s in drained(sources)]
