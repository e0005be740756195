"""Listing the source videos, with the label and the split of each.

What the videos are is a matter of the kind of input; here they get what makes them sources.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipelines.io import checksums
from pipelines.io.markers import SPLITS
from pipelines.io.records import CHUNK, Records
from pipelines.sharding.addresses import is_url, without_secrets
from pipelines.sharding.columns import merged, refuse_unknown
from pipelines.sharding.inputs import folder, lists, parquet, tars
from pipelines.sharding.inputs.kind import Kind, Listed, Place
from pipelines.sharding.inputs.lists import as_listed, is_relative, look_up
from pipelines.sharding.manifest import ColumnTypes, Source, add_types
from pipelines.sharding.settings import Selection
from pipelines.sharding.source_table import REPEATED, SourceTable
from pipelines.sharding.spans import divided, remote_path
from pipelines.sharding.splits import find_list, named_split, split_sources
from pipelines.sharding.table import Reader, Row
from pipelines.video.file_names import parts
from pipelines.video.reasons import VideoError
from vqvdm.errors import UserError

KINDS: tuple[Kind, ...] = (tars, parquet, lists, folder)
"""Every kind of input: of several that take one, the first. A folder takes whatever is left."""


def list_sources(videos: str, selection: Selection, root: str = "") -> SourceTable:
    """The videos of an input, with label and split; `UserError` where there are none.

    `root` is a folder below it, of which nothing is taken.
    """
    if is_url(videos):
        raise UserError(
            f"--videos {without_secrets(videos)}: servers do not list their files: pass a .txt "
            "file with a URL a line, or a .csv with a column url"
        )
    selection = replace(selection, val_list=find_list(videos, selection.val_list))
    place = Place(videos, selection.frames_fps is not None, root)
    kind = next(kind for kind in KINDS if kind.takes(place))
    if kind is not folder:
        place.print_unnamed()
    found = kind.listed(place, selection)
    if selection.labels in ("folder", "none"):
        origin, cure = videos, "move it, or pass --labels none"
        sources = SourceTable(divided((_from_input(v, selection) for v in found), selection))
    else:
        origin, cure = selection.labels, f"give it one in --labels {selection.labels}"
        sources = SourceTable(divided(_from_table(place, found, selection), selection))
    refuse_unknown(selection)
    _refuse_twice(sources, origin)
    sources.sort()
    _refuse_strays(sources, cure)
    _refuse_mixed_columns(sources)
    check_classes(sources.classes)
    return _with_splits(sources, selection, origin)


def sampled(sources: SourceTable, count: int) -> SourceTable:
    """So many of the videos in their order: of each split, and in it of each class, the same share.
    A file with all its spans is one.

    More are the same and others, and a video that is added takes the place of at most a few.
    """
    first_N = sources.first_spans_N
    is_first_N = first_N == np.arange(len(sources))
    codes_N, labels = sources.codes("label")
    # The place of each label in their order; -1, of videos without one, is the last here.
    number_C = np.argsort(np.argsort([*map(str, labels), str(None)], kind="stable"))
    rank_N = np.array([_rank(id) for id in sources.ids_N.tolist()], np.uint64)
    by_split = []
    for split, direction in zip(SPLITS, (1, -1), strict=True):
        # Where few classes are reached, those that validation takes are the ones training lacks.
        rows = sources.rows_of(split)
        rows = rows[is_first_N[rows]]
        class_N = direction * number_C[codes_N[rows]]
        order = np.lexsort((rank_N[rows], class_N))
        _, starts = np.unique(class_N[order], return_index=True)
        by_split.append(_interleaved(np.split(rows[order], starts[1:])))
    # However few videos there are, one is for training, and one for validation.
    first = np.concatenate([of_split[:1] for of_split in by_split])
    others = _interleaved(by_split)
    chosen = np.concatenate([first, others[~np.isin(others, first)]])[:count]
    return sources.subset(np.flatnonzero(np.isin(first_N, chosen)))


def _interleaved(lists: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """All rows, so that the first ones, however many, hold the same share of each list."""
    sizes_L = np.array([len(rows) for rows in lists])
    share_N = np.concatenate([(np.arange(size) + 0.5) / max(1, size) for size in sizes_L])
    number_N = np.repeat(np.arange(len(lists)), sizes_L)
    return np.concatenate(lists)[np.lexsort((number_N, share_N))]


def _rank(id: int) -> int:
    """A hash for the order within a class: the id itself says which shard a video belongs to, and
    for most videos whether it is for validation."""
    return int(checksums.digest(f"limit {id:016x}"), 16)


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

        Errors are those of `Kind.fetch`, and the same for all parts of a video. Of a span in an
        object store it is the path that the decoding process knows.
        """
        if path := remote_path(source):
            return path
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
    folders = parts(path) if tells else []
    if not video.file.unreadable:  # An unreadable folder gets the label that its videos would have.
        folders = folders[:-1]
    if selection.splits == "folders":
        split = "" if video.refused else named_split(path)
        folders = folders[1:]
    label = row.label or next(iter(folders), None)
    return _source(
        video, row, label if selection.labels == "folder" else None, split, selection.frames_fps
    )


def _from_table(place: Place, found: Iterable[Listed], selection: Selection) -> Iterator[Source]:
    """A source for each row of a table of labels, whether its video was found or not."""
    fps = selection.frames_fps
    there = SourceTable(_source(video, Row(video.path), None, "", fps) for video in found)
    there.sort()
    rows = Records(Row, _placed(selection, place.base), REPEATED)
    row_N = _rows_of(there, rows.texts("path"))
    absent = rows.subset(np.flatnonzero(row_N < 0))
    found_elsewhere = look_up(absent, place.base)
    elsewhere = (_source(video, Row(video.path), None, "", fps) for video in found_elsewhere)
    is_known = False
    for row, video in zip(rows, _of_rows(there, row_N, elsewhere), strict=True):
        is_known = is_known or bool(video.size or video.etag or video.mtime_ns)
        yield replace(
            video,
            label=row.label,
            split=row.split or "",
            start_s=row.start_s,
            end_s=row.end_s,
            fps=row.fps,
            columns=merged(video.columns, row.columns),
        )
    if not is_known:
        raise UserError(
            f"{selection.labels} names none of the videos under {place.uri}: check its path column"
        )


def _of_rows(
    there: SourceTable, row_N: NDArray[np.int64], elsewhere: Iterator[Source]
) -> Iterator[Source]:
    """The videos of these rows, and for each -1 the next of those elsewhere, which are all used."""
    for start in range(0, len(row_N), CHUNK):
        part_N = row_N[start : start + CHUNK]
        listed = iter(there.take(part_N[part_N >= 0]))
        yield from (next(elsewhere if row < 0 else listed) for row in part_N.tolist())
    yield from elsewhere  # None is left; a look-up ends by telling what did not answer.


def _placed(selection: Selection, folder: str) -> Iterator[Row]:
    """The rows of a table of labels, their paths as a listing writes them."""
    for row in Reader("--labels", selection).labels(selection.labels):
        yield replace(row, path=as_listed(row.path, folder))


def _rows_of(sources: SourceTable, paths: Iterable[str]) -> NDArray[np.int64]:
    """The row of the video with each path or address; -1 where there is none.

    Names are compared by their checksums: as a dict, ten million of them would take gigabytes.
    """
    wanted = _keys(paths)
    if not len(sources):
        return np.full(len(wanted), -1)
    named = np.flatnonzero(sources.has("address"))
    keys = np.concatenate(
        [_keys(sources.texts("path")), _keys(sources.subset(named).texts("address"))]
    )
    rows = np.concatenate([np.arange(len(sources)), named])
    order = np.lexsort((rows, keys))
    # Of several with one name, the last.
    last = np.searchsorted(keys[order], wanted, side="right") - 1
    found = order[np.maximum(0, last)]
    return np.where(keys[found] == wanted, rows[found], -1)


def _keys(names: Iterable[str]) -> NDArray[np.uint64]:
    """Checksums of names, however their characters are composed."""
    composed = (unicodedata.normalize("NFC", name) for name in names)
    return np.fromiter((int(checksums.digest(name), 16) for name in composed), np.uint64)


def _refuse_twice(sources: SourceTable, origin: str) -> None:
    order = np.argsort(sources.ids_N, kind="stable")
    ids_N = sources.ids_N[order]
    again = order[1:][ids_N[1:] == ids_N[:-1]]
    if len(again):
        [source] = sources.take(np.sort(again)[:1])
        raise UserError(f"{origin} lists {source.path} twice: remove one row")


def _refuse_strays(sources: SourceTable, cure: str) -> None:
    """`UserError` if some videos have a label and others none."""
    has_label, is_sound = sources.has("label"), ~sources.has("refused")
    if len(strays := np.flatnonzero(is_sound & ~has_label)) and (is_sound & has_label).any():
        [stray] = sources.take(strays[:1])
        raise UserError(f"{stray.path} has no label while others have: {cure}")


def _refuse_mixed_columns(sources: SourceTable) -> None:
    types: ColumnTypes = {}
    if sources.has("columns").any():
        for path, columns in zip(sources.texts("path"), sources.texts("columns"), strict=True):
            add_types(types, path, columns)


def _with_splits(sources: SourceTable, selection: Selection, origin: str) -> SourceTable:
    """The splits that the input or the table gives, or else those of --val-list or of chance."""
    codes_N, splits = sources.codes("split")
    words_N = np.array(splits)[codes_N]
    is_given = words_N[~sources.has("refused")] != ""
    if not is_given.any():
        return split_sources(sources, selection)
    if not is_given.all():
        raise UserError(f"{origin}: some rows have a split and some have none")
    return sources.with_splits(words_N == "val")
