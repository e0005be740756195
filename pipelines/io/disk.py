"""What only disks need: folders walked, files written beside their place and moved there."""

from __future__ import annotations

import glob
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.io import room
from vqvdm.errors import UserError


@dataclass(frozen=True)
class FileInfo:
    """A file in a listing. Object stores give an etag, disks a modification time."""

    uri: str
    size: int
    etag: str | None = None
    mtime_ns: int | None = None
    images: int = 0
    """Number of images, if it stands for a folder of them."""
    is_folder: bool = False
    unreadable: bool = False
    """Whether it is a folder that may not be read."""


def walk(path: str, folders: bool) -> Iterator[FileInfo]:
    """Every file below a folder, in any order; with `folders`, those too."""
    if os.path.isdir(path):
        os.listdir(path)  # A folder that may not be read is an error, not an empty folder.
    refused, entered = list[OSError](), set[tuple[int, int]]()
    for folder, below, names in os.walk(path, onerror=refused.append, followlinks=True):
        below.sort()  # Of two links to one folder, the first by name is entered.
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in entered:
            below.clear()  # A link to a folder above, or to one listed before.
            continue
        entered.add((stat.st_dev, stat.st_ino))
        yield from (info(os.path.join(folder, name)) for name in names)
        if folders and folder != path:
            yield FileInfo(folder, 0, is_folder=True)
    for error in refused:
        if folders and error.filename != path:
            yield FileInfo(str(error.filename), 0, is_folder=True, unreadable=True)


def info(place: str) -> FileInfo:
    """The entry of a file in a listing."""
    try:
        stat = os.stat(place)
        # A clock may have been centuries ahead: such a time has no room in a column.
        time_ns = stat.st_mtime_ns if abs(stat.st_mtime_ns) < 2**63 else None
        return FileInfo(place, stat.st_size, mtime_ns=time_ns)
    except OSError:
        return FileInfo(place, 0)  # A dangling link: rejected when it is opened.


def publish(path: str, size: int, write: Callable[[str], object]) -> None:
    """Have a part written beside the place of a file, and move it there."""
    folder, name = os.path.split(path)
    with room.filling(folder, size, room.ROOT_CURE):
        os.makedirs(folder, exist_ok=True)
        part = os.path.join(folder, _part(name))
        try:
            write(part)
            written = os.path.getsize(part)
            if written != size:
                raise UserError(
                    f"{path} would hold {written} bytes after {size} were written: the disk or "
                    "its driver is damaged, choose another place"
                )
            os.replace(part, path)
        finally:
            Path(part).unlink(missing_ok=True)


def _part(name: str) -> str:
    """The temporary name of a file while it is written."""
    return f".{name}.{uuid.uuid4().hex}.part"


def discard_parts(path: str) -> None:
    """Remove the parts that killed writers left of a file, or of all files below a folder."""
    beside = Path(path).parent.glob(f".{glob.escape(os.path.basename(path))}.*.part")
    for part in [*beside, *Path(path).rglob(".*.part")]:
        part.unlink(missing_ok=True)
