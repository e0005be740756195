"""Disks without room: recognised, and told in one line."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vqvdm.errors import UserError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""A full disk, an exhausted quota, and a file larger than the file system or a limit allows."""
SCRATCH_CURE = (
    "make room there, set TMPDIR where Ray is started to a folder with more room, or take fewer "
    "--num-workers or a smaller --videos-per-shard, --shard-mb or --span-mb"
)
ROOT_CURE = "make room there, or choose another --root"


def is_full(error: BaseException) -> bool:
    """Whether a disk without room is the error, or the cause of it."""
    return any(
        isinstance(each, OSError) and each.errno in FULL for each in (error, error.__cause__)
    )


def is_scratch_full(error: BaseException) -> bool:
    """Whether the disk without room is that of temporary files: others may have room on theirs."""
    return is_full(error) and SCRATCH_CURE in str(error)


@contextmanager
def filling(folder: str | Path, wanted: int | None, cure: str) -> Iterator[None]:
    """Turn the error of a full disk into one line; `wanted` is in bytes, if it is known."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise no_room(folder, wanted, cure, error.strerror) from error


def no_room(folder: str | Path, wanted: int | None, cure: str, reason: str | None) -> UserError:
    """Where there is no room, how much is left and how much is wanted."""
    return UserError(
        f"no room in {folder} on {socket.gethostname()}: {_left(folder)} left, "
        f"{amount(wanted) if wanted else 'more'} wanted ({reason}): {cure}; then run the same "
        "command again"
    )


def refuse_too_little(folder: str | Path, wanted: int) -> None:
    """ENOSPC before a large file is written to a disk that has no room for it."""
    if shutil.disk_usage(folder).free < wanted:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _left(folder: str | Path) -> str:
    place = Path(folder)
    while not place.exists():
        place = place.parent
    found = os.statvfs(place)
    if found.f_files and not found.f_favail:
        return "no more files"
    return amount(found.f_bavail * found.f_frsize)


def amount(size: int) -> str:
    """A number of bytes, for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
