"""A folder or prefix of videos: a video is a file, or a folder of images."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import PurePosixPath

from pipelines.io import checksums, storage
from pipelines.io.disk import FileInfo
from pipelines.sharding.inputs.kind import Listed, Place, may_be_video, print_skipped
from pipelines.sharding.manifest import Source
from pipelines.sharding.settings import Selection
from pipelines.video.header import IMAGES
from vqvdm.errors import UserError

FOLDERS_LIKE_VIDEOS = frozenset((".avi", ".mkv", ".mov", ".mp4", ".webm"))
"""An empty folder with such a suffix gets a row, as not a file."""


def takes(place: Place) -> bool:
    return True


def listed(place: Place, selection: Selection) -> list[Listed]:
    images = _image_folders(place)
    found = [Listed(place.relative(file.uri), file) for file in _videos(place, images.values())]
    if selection.frames_fps is not None:
        found += [Listed(path, folder) for path, folder in images.items()]
    if selection.labels not in ("folder", "none"):
        return found
    if not found and images:
        raise UserError(
            f"no videos under {place.uri}, but folders of images: pass --frames-fps 25, or "
            "whatever their rate is, to treat each folder as a video"
        )
    if not found:
        raise UserError(
            f"no videos under {place.uri}: pass --videos a folder or bucket that has some"
        )
    names = [file.uri for file in place.files if not file.is_folder]
    hidden = sum(not file.is_folder for file in place.everything) - len(names)
    print_skipped(hidden, names)
    return found


def holds(source: Source) -> bool:
    return True


def fetch(source: Source) -> AbstractContextManager[str]:
    if source.frames_fps is not None:
        return storage.local_folder(source.uri)
    return storage.local_copy(source.uri)


def _videos(place: Place, images: Iterable[FileInfo]) -> list[FileInfo]:
    """Files that may be videos, and folders that are unreadable, or empty with a video suffix."""
    videos = [file for file in place.files if not file.is_folder and may_be_video(file.uri)]
    inhabited = {folder.uri for folder in images}
    folders = [file for file in place.files if file.is_folder]
    if folders:
        for file in videos:
            inhabited.update(str(parent) for parent in PurePosixPath(file.uri).parents)
    return videos + [
        folder
        for folder in folders
        if folder.uri not in inhabited
        and (folder.unreadable or PurePosixPath(folder.uri).suffix.lower() in FOLDERS_LIKE_VIDEOS)
    ]


def _image_folders(place: Place) -> dict[str, FileInfo]:
    """Folders of images below a folder, each as one file that changes with any image."""
    members = defaultdict(list)
    for file in place.files:
        if PurePosixPath(file.uri).suffix.lower() in IMAGES:
            members[posixpath.dirname(file.uri)].append(file)
    folders = {}
    for uri, images in members.items():
        stamps = [[posixpath.basename(f.uri), f.size, f.etag, f.mtime_ns] for f in images]
        size = sum(file.size for file in images)
        info = FileInfo(uri, size, checksums.fingerprint(stamps), images=len(images))
        folders[place.relative(uri) or "."] = info
    return folders
