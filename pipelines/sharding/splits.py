"""Splitting videos into training and validation: by folder, by list, or by chance."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePosixPath

from pipelines.io import checksums, storage
from pipelines.sharding.addresses import bare
from pipelines.sharding.manifest import Source
from pipelines.sharding.settings import Selection
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


def split_sources(sources: list[Source], selection: Selection) -> list[Source]:
    """Keep some videos for validation, by a list or by chance; groups stay together.

    Chance is a hash of the group's name, so that adding or removing videos moves no other. The list
    itself is changed: there may be millions.
    """
    groups = {source.path: _group(source.path, selection.group_by) for source in sources}
    if selection.val_list:
        paths = listed(selection.val_list, groups.keys())
        chosen = {groups[path] for path in paths}
        parted = sorted(path for path in groups.keys() - paths if groups[path] in chosen)
        if parted:
            raise UserError(
                f"--val-list {selection.val_list} keeps {groups[parted[0]]}… for validation, but "
                f"not {parted[0]} of the same group: list both, or pass --group-by ''"
            )
    else:
        chosen = _by_chance(set(groups.values()), selection.val_fraction)
    for place, source in enumerate(sources):
        split = "val" if groups[source.path] in chosen else "train"
        sources[place] = replace(source, split=split)
    return sources


def _group(path: str, pattern: str) -> str:
    """What videos of one group share: the path up to the end of the match, or the whole path."""
    match = re.search(pattern, path) if pattern else None
    return path[: match.end()] if match else path


def _by_chance(groups: set[str], fraction: float) -> set[str]:
    ids = {group: checksums.digest(group) for group in groups}
    chosen = {group for group, id in ids.items() if int(id[:8], 16) < fraction * 2**32}
    # However few videos there are, one is kept for training, and one for validation.
    ordered = sorted(groups, key=ids.__getitem__)
    if not chosen and fraction > 0 and len(groups) > 1:
        chosen = {ordered[0]}
    if len(chosen) == len(groups):
        chosen.remove(ordered[-1])
    return chosen


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


def listed(val_list: str, paths: Iterable[str]) -> set[str]:
    """Paths in a list, one a line; what follows a path, as in UCF-101's lists, is ignored."""
    spelled = {unicodedata.normalize("NFC", path): path for path in paths}
    # UCF-101's lists and files write HandstandPushups and HandStandPushups.
    folded = Counter(path.casefold() for path in spelled)
    by_case = {path.casefold(): path for path in spelled if folded[path.casefold()] == 1}
    chosen = set()
    for line in storage.read_text(val_list, "--val-list").splitlines():
        line = unicodedata.normalize("NFC", line.strip())
        if not line:
            continue
        name = line if line in spelled else bare(line.split()[0])
        name = name if name in spelled else by_case.get(name.casefold(), name)
        if name not in spelled:
            raise UserError(f"--val-list {val_list} names {name}, which is not among the videos")
        chosen.add(spelled[name])
    return chosen
