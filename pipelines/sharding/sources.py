"""Listing the source videos, with the label of each.

A video is a file, a folder of images, or a row of a table that names a file or a part of one.
"""

from __future__ import annotations

import posixpath
import unicodedata
from collections import Counter, defaultdict
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

FOLDERS_LIKE_VIDEOS = frozenset((".avi", ".mkv", ".mov", ".mp4", ".webm"))
"""An empty folder with such a suffix gets a row, as not a file."""

_BESIDE_VIDEOS = """
csv tsv json jsonl xml yaml yml toml ini cfg log txt md rst html htm css js py sh ipynb pdf doc docx
xls xlsx ppt pptx parquet npy npz pt pth safetensors pkl h5 db sqlite srt vtt ass ssa sub idx nfo
zip tar gz tgz bz2 xz 7z rar mp3 wav flac m4a aac opus oga svg tif tiff heic raw psd part tmp
crdownload md5 sha256
"""
NO_VIDEOS = frozenset(f".{suffix}" for suffix in _BESIDE_VIDEOS.split())
"""Suffixes of files that often lie beside videos. Every other file is tried: FFmpeg reads more
formats than a list could name."""

SYSTEM_NAMES = frozenset(
    (
        "__MACOSX",
        "@eaDir",
        "lost+found",
        "#recycle",
        "$RECYCLE.BIN",
        "System Volume Information",
        "Thumbs.db",
        "desktop.ini",
    )
)
"""Names that operating systems and servers leave behind; names with a leading dot are hidden."""


def list_sources(videos: str, selection: Selection) -> list[Source]:
    """The videos below a folder, with label and split; `UserError` where there are none."""
    selection = replace(selection, val_list=find_list(videos, selection.val_list))
    everything = storage.walk(videos, folders=True)
    files = [file for file in everything if not _is_hidden(file.uri[len(videos) + 1 :])]
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
        _print_skipped(everything, files)
        sources = _from_folders(found, selection)
    else:
        sources = _from_table(videos, found, selection)
    if selection.labels == "folder" and len({s.label is None for s in sources}) > 1:
        stray = next(source.path for source in sources if source.label is None)
        raise UserError(f"{stray} has no label while others have: move it, or pass --labels none")
    check_classes({source.label for source in sources if source.label is not None})
    return sources


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


def _is_hidden(path: str) -> bool:
    """Whether a path is hidden, or left behind by a system."""
    parts = PurePosixPath(path).parts
    return any(part.startswith(".") or part in SYSTEM_NAMES for part in parts)


def _print_skipped(everything: list[FileInfo], files: list[FileInfo]) -> None:
    """Print how many files are skipped, and why."""
    hidden = sum(not file.is_folder for file in everything) - sum(not f.is_folder for f in files)
    if hidden:
        print(f"note: {hidden} hidden or system files are skipped", flush=True)
    endings = Counter(
        suffix
        for file in files
        if not file.is_folder and (suffix := PurePosixPath(file.uri).suffix.lower()) in NO_VIDEOS
    )
    if endings:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in endings.most_common(5))
        print(f"note: {endings.total()} files are skipped as not videos ({kinds})", flush=True)


def _videos(files: list[FileInfo], images: Iterable[FileInfo]) -> list[FileInfo]:
    """Files that may be videos, and folders that are unreadable, or empty with a video suffix."""
    videos = [
        file
        for file in files
        if not file.is_folder
        and (suffix := PurePosixPath(file.uri).suffix.lower()) not in NO_VIDEOS
        and suffix not in IMAGES
    ]
    inhabited = {folder.uri for folder in images}
    folders = [file for file in files if file.is_folder]
    if folders:
        for file in videos:
            inhabited.update(str(parent) for parent in PurePosixPath(file.uri).parents)
    return videos + [
        folder
        for folder in folders
        if folder.uri not in inhabited
        and (folder.unreadable or PurePosixPath(folder.uri).suffix.lower() in FOLDERS_LIKE_VIDEOS)
    ]


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
        parts = PurePosixPath(path).parts
        # An unreadable folder gets the label that its videos would have.
        parents = parts if file.unreadable else parts[:-1]
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
    path = _as_listed(row.path, videos)
    path = spelled.get(unicodedata.normalize("NFC", path), path)
    if path in found:
        file = found[path]
    else:
        elsewhere = "://" in path or path.startswith("/")
        uri = path if elsewhere else storage.join(videos, path)
        file = storage.info(uri) or FileInfo(uri, 0)  # Missing: its account will record it.
    source = _source(path, file, row.label, row.split or "train", selection.frames_fps)
    return replace(source, start_s=row.start_s, end_s=row.end_s, fps=row.fps)


def _as_listed(path: str, videos: str) -> str:
    """A path of a table as a listing writes it: relative if it lies below the videos."""
    if "://" in path or path.startswith("/"):
        return storage.absolute(path).removeprefix(f"{videos}/")
    return posixpath.normpath(path)
