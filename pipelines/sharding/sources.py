"""Listing the source videos, with the label of each.

A video is a file, a folder of images, or a row of a table that names a file or a part of one.
"""

from __future__ import annotations

import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePosixPath

from pipelines.io import checksums, storage
from pipelines.io.storage import FileInfo
from pipelines.sharding.manifest import Source
from pipelines.sharding.settings import Selection
from pipelines.sharding.splits import find_list, named_split, split_sources
from pipelines.sharding.table import Row, read_table
from pipelines.video.header import IMAGES
from vqvdm.errors import UserError

SUFFIXES = frozenset(
    f".{name}"
    for name in "3gp avi flv gif m2ts m4v mkv mov mp4 mpeg mpg mts ogg ogv ts vob webm wmv".split()  # noqa: SIM905
)
"""Suffixes of files that are treated as videos."""


def list_sources(videos: str, selection: Selection) -> list[Source]:
    """The videos below a folder, with label and split; `UserError` where there are none."""
    selection = replace(selection, val_list=find_list(videos, selection.val_list))
    files = storage.walk(videos, folders=True)
    images = _image_folders(videos, files)
    found = {file.uri[len(videos) + 1 :]: file for file in _videos(files, images.values())}
    if selection.frames_fps is not None:
        found |= images
    if selection.labels in ("folder", "none"):
        if not found and images:
            raise UserError(
                f"no videos under {videos}, but folders of images: pass --frames-fps 25, or "
                "whatever their rate is, to treat each folder as a video"
            )
        if not found:
            raise UserError(
                f"no videos under {videos}: pass --videos a folder or bucket that has some"
            )
        sources = _from_folders(found, selection)
    else:
        sources = _from_table(videos, found, selection)
    if selection.labels == "folder" and len({s.label is None for s in sources}) > 1:
        stray = next(source.path for source in sources if source.label is None)
        raise UserError(f"{stray} has no label while others have: move it, or pass --labels none")
    return sources


def _videos(files: list[FileInfo], images: Iterable[FileInfo]) -> list[FileInfo]:
    """Files with a video suffix, and folders with one that hold neither videos nor images."""
    named = [file for file in files if PurePosixPath(file.uri).suffix.lower() in SUFFIXES]
    inhabited = {folder.uri for folder in images}
    if any(file.is_folder for file in named):
        for file in named:
            inhabited |= {str(p) for p in PurePosixPath(file.uri).parents if not file.is_folder}
    return [file for file in named if not file.is_folder or file.uri not in inhabited]


def _image_folders(videos: str, files: list[FileInfo]) -> dict[str, FileInfo]:
    """Folders of images below a folder, each as one file that changes with any image."""
    members = defaultdict(list)
    for file in files:
        if PurePosixPath(file.uri).suffix.lower() in IMAGES:
            members[posixpath.dirname(file.uri)].append(file)
    folders = {}
    for uri, images in members.items():
        stamps = [[posixpath.basename(f.uri), f.size, f.etag, f.mtime_ns] for f in images]
        size = sum(file.size for file in images)
        info = FileInfo(uri, size, checksums.fingerprint(stamps), images=len(images))
        folders[uri[len(videos) + 1 :] or "."] = info
    return folders


def _source(path: str, file: FileInfo, label: str | None, split: str, fps: float | None) -> Source:
    frames_fps = fps if file.images else None
    return Source(
        path, file.uri, file.size, file.etag, file.mtime_ns, label, split, frames_fps=frames_fps
    )


def _from_folders(found: dict[str, FileInfo], selection: Selection) -> list[Source]:
    sources = []
    by_folder = selection.splits == "folders"
    for path, file in sorted(found.items()):
        parents = PurePosixPath(path).parts[:-1]
        split = named_split(path) if by_folder else "train"
        classes = parents[1:] if by_folder else parents
        label = classes[0] if selection.labels == "folder" and classes else None
        sources.append(_source(path, file, label, split, selection.frames_fps))
    return sources if by_folder else split_sources(sources, selection)


def _from_table(videos: str, found: dict[str, FileInfo], selection: Selection) -> list[Source]:
    rows = read_table(selection.labels)
    spelled = {unicodedata.normalize("NFC", path): path for path in found}
    sources = [_from_row(row, videos, found, spelled, selection) for row in rows]
    if not any(source.size or source.etag or source.mtime_ns for source in sources):
        raise UserError(
            f"{selection.labels} names none of the videos under {videos}: check its path column"
        )
    seen = set[str]()
    for source in sources:
        if source.id in seen:
            raise UserError(f"{selection.labels} lists {source.path} twice: remove one row")
        seen.add(source.id)
    sources.sort(key=lambda source: (source.path, source.start_s or 0.0, source.id))
    if len({source.label is None for source in sources}) > 1:
        stray = next(source.path for source in sources if source.label is None)
        raise UserError(f"{selection.labels}: {stray} has no label while others have")
    given = [row.split for row in rows if row.split]
    if given and len(given) < len(rows):
        raise UserError(f"{selection.labels}: some rows have a split and some have none")
    return sources if given else split_sources(sources, selection)


def _from_row(
    row: Row,
    videos: str,
    found: dict[str, FileInfo],
    spelled: dict[str, str],
    selection: Selection,
) -> Source:
    path = row.path.removeprefix("./")
    path = spelled.get(unicodedata.normalize("NFC", path), path)
    if path in found:
        file = found[path]
    elif "://" in path or path.startswith("/"):
        file = storage.info(path) or FileInfo(path, 0)
    else:
        file = FileInfo(storage.join(videos, path), 0)  # Missing: its account will record it.
    source = _source(path, file, row.label, row.split or "train", selection.frames_fps)
    return replace(source, start_s=row.start_s, end_s=row.end_s, fps=row.fps)
