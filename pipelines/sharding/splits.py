"""Splitting videos into training and validation: by folder, by list, or by chance."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from pipelines.io import storage
from pipelines.sharding.addresses import bare
from pipelines.sharding.manifest import video_id
from pipelines.sharding.settings import Selection
from pipelines.sharding.source_table import SourceTable
from vqvdm.errors import UserError

SPLIT_OF = {"train": "train", "training": "train"} | dict.fromkeys(
    ("val", "valid", "validation", "test", "testing"), "val"
)
"""The split that a word stands for, in the names of folders and in tables."""


def named_split(path: str) -> str:
    """The split that the first folder of a path names: `train`, `sky_train`, `test`, …"""
    words = re.split(r"[^a-z]+", PurePosixPath(path).parts[0].lower())
    splits = {SPLIT_OF[word] for word in words if word in SPLIT_OF}
    if len(splits) != 1 or "/" not in path:
        raise UserError(
            f"--splits folders: {path} lies in no folder with train, val or test in its name; "
            "move it, or pass --splits random"
        )
    return splits.pop()


def split_sources(sources: SourceTable, selection: Selection) -> SourceTable:
    """Keep some videos for validation, by a list or by chance; groups stay together."""
    groups_N = _groups(sources, selection.group_by)
    if selection.val_list:
        return sources.with_splits(_by_list(sources, groups_N, selection))
    return sources.with_splits(_by_chance(groups_N, selection.val_fraction))


def _groups(sources: SourceTable, pattern: str) -> NDArray[np.uint64]:
    """A checksum of what videos of one group share; of a video alone it is its id."""
    groups_N = sources.videos_N.copy()
    for row, path in enumerate(sources.texts("path") if pattern else ()):
        if (group := _group(path, pattern)) != path:
            groups_N[row] = int(video_id(group), 16)
    return groups_N


def _group(path: str, pattern: str) -> str:
    """What videos of one group share: the path up to the end of the match, or the whole path."""
    match = re.search(pattern, path)
    return path[: match.end()] if match else path


def _by_chance(groups_N: NDArray[np.uint64], fraction: float) -> NDArray[np.bool_]:
    """Chance is a hash of the group's name: adding or removing videos moves no other."""
    is_val_N = (groups_N >> np.uint64(32)) < fraction * 2**32
    # However few videos there are, one is kept for training, and one for validation.
    first, last = groups_N.min(), groups_N.max()
    if not is_val_N.any() and fraction > 0 and first != last:
        is_val_N = groups_N == first
    if is_val_N.all():
        is_val_N = groups_N != last
    return is_val_N


def _by_list(
    sources: SourceTable, groups_N: NDArray[np.uint64], selection: Selection
) -> NDArray[np.bool_]:
    assert selection.val_list is not None
    chosen = listed(selection.val_list, sources)
    ids_M = np.array([int(video_id(path), 16) for path in chosen], np.uint64)
    is_listed_N = np.isin(sources.videos_N, ids_M)
    is_val_N = np.isin(groups_N, groups_N[is_listed_N])
    if len(parted := np.flatnonzero(is_val_N & ~is_listed_N)):
        [source] = sources.take(parted[:1])
        raise UserError(
            f"--val-list {selection.val_list} keeps {_group(source.path, selection.group_by)}… for "
            f"validation, but not {source.path} of the same group: list both, or pass --group-by ''"
        )
    return is_val_N


def find_list(videos: str, val_list: str | None) -> str | None:
    """Where the file of --val-list lies: as given, below the videos, or beside their folder."""
    if val_list is None or val_list == "none":
        return None
    places = [storage.absolute(val_list)]
    if not posixpath.isabs(val_list) and "://" not in val_list:
        places += [storage.join(place, val_list) for place in (videos, posixpath.dirname(videos))]
    for place in places:
        if storage.exists(place):
            return place
    raise UserError(
        f"--val-list {val_list}: no such file, nor below or beside {videos}; "
        "pass its path, or --val-list none for a random split"
    )


def listed(val_list: str, sources: SourceTable) -> set[str]:
    """Paths in a list, one a line; what follows a path, as in UCF-101's lists, is ignored."""
    text = storage.read_text(val_list, "--val-list")
    lines = [unicodedata.normalize("NFC", line.strip()) for line in text.splitlines()]
    names = {line: (line, bare(line.split()[0])) for line in lines if line}
    wanted = {name for both in names.values() for name in both}
    # UCF-101's lists and files write HandstandPushups and HandStandPushups.
    folded = {name.casefold() for name in wanted}
    # Of all videos only those are held that a list of any case may mean: there may be millions.
    spelled: dict[str, str] = {}
    by_case: dict[str, set[str]] = {}
    for path in sources.texts("path"):
        name = unicodedata.normalize("NFC", path)
        if (case := name.casefold()) in folded:
            spelled[name] = path
            by_case.setdefault(case, set()).add(name)
    chosen = set()
    for whole, first in names.values():
        name = whole if whole in spelled else first
        alike = by_case.get(name.casefold(), set())
        if name not in spelled and len(alike) == 1:
            [name] = alike
        if name not in spelled:
            raise UserError(f"--val-list {val_list} names {name}, which is not among the videos")
        chosen.add(spelled[name])
    return chosen
