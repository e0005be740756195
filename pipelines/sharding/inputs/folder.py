"""A folder or prefix of videos: a video is a file, or a folder of images."""

from __future__ import annotations

import posixpath
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from typing import Any

from pipelines.io import checksums, storage
from pipelines.io.disk import FileInfo
from pipelines.sharding.inputs.kind import Listed, Place, print_skipped
from pipelines.sharding.manifest import Source
from pipelines.sharding.settings import Selection
from pipelines.video.file_names import NO_VIDEOS, is_hidden, suffix
from pipelines.video.header import IMAGES
from vqvdm.errors import UserError

FOLDERS_LIKE_VIDEOS = frozenset((".avi", ".mkv", ".mov", ".mp4", ".webm"))
"""An empty folder with such a suffix gets a row, as not a file."""


def takes(place: Place) -> bool:
    return True


def listed(place: Place, selection: Selection) -> Iterator[Listed]:
    count = hidden = 0
    skipped, folders, inhabited = Counter[str](), list[FileInfo](), set[str]()
    images = defaultdict[str, list[list[Any]]](list)
    for file in place.drained():
        ending = suffix(file.uri)
        if is_hidden(place.relative(file.uri)):
            hidden += not file.is_folder
        elif file.is_folder:
            folders.append(file)
        elif ending in NO_VIDEOS:
            skipped[ending] += 1
        elif ending not in IMAGES:
            inhabited.add(posixpath.dirname(file.uri))
            yield Listed(place.relative(file.uri), file)
            count += 1
        elif selection.frames_fps is not None:
            stamp = [posixpath.basename(file.uri), file.size, file.etag, file.mtime_ns]
            images[posixpath.dirname(file.uri)].append(stamp)
        else:
            images[posixpath.dirname(file.uri)] = []
            skipped[ending] += 1
    for folder in _without_videos(folders, inhabited, images.keys()):
        yield Listed(place.relative(folder.uri), folder)
        count += 1
    if selection.frames_fps is not None:
        for uri, stamps in images.items():
            yield Listed(place.relative(uri) or ".", _image_folder(uri, stamps))
            count += 1
    if selection.labels not in ("folder", "none"):
        return
    if not count and images:
        raise UserError(
            f"no videos under {place.uri}, but folders of images: pass --frames-fps 25, or "
            "whatever their rate is, to treat each folder as a video"
        )
    if not count:
        raise UserError(
            f"no videos under {place.uri}: pass --videos a folder or bucket that has some"
        )
    print_skipped(hidden, skipped)


def holds(source: Source) -> bool:
    return True


def fetch(source: Source) -> AbstractContextManager[str]:
    if source.frames_fps is not None:
        return storage.local_folder(source.uri)
    return storage.local_copy(source.uri)


def _without_videos(
    folders: list[FileInfo], inhabited: set[str], of_images: Collection[str]
) -> Iterator[FileInfo]:
    """Folders that are unreadable, or have a video suffix and neither videos nor images.

    `inhabited` are those that videos lie in, and `of_images` those that images do.
    """
    filled = set[str]()
    for uri in inhabited if folders else ():
        while uri not in filled:
            filled.add(uri)
            uri = posixpath.dirname(uri)
    filled |= set(of_images)
    for folder in folders:
        is_like_video = suffix(folder.uri) in FOLDERS_LIKE_VIDEOS
        if folder.uri not in filled and (folder.unreadable or is_like_video):
            yield folder


def _image_folder(uri: str, stamps: list[list[Any]]) -> FileInfo:
    """A folder of images as one file, which changes with any of them."""
    size = sum(size for _, size, _, _ in stamps)
    return FileInfo(uri, size, checksums.fingerprint(sorted(stamps)), images=len(stamps))
