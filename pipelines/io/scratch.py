"""Temporary folders that are removed even if their process was killed.

A killed process cannot clean up. Each folder is locked by the process that made it, and the lock
ends with the process. The next call of `scratch` removes all folders that are not locked. A folder
that several processes share is locked by each of them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines.io import room

PREFIX = "vqvdm-scratch-"
LOCK = ".lock"


@contextmanager
def scratch() -> Iterator[Path]:
    """A new temporary folder; names that start with a dot are reserved.

    `UserError` says how much room is left if its disk gets full.
    """
    sweep()
    with room.filling(tempfile.gettempdir(), None, room.SCRATCH_CURE):
        folder, lock = _locked()
    try:
        # Told while the files still lie there: they are a part of what is wanted.
        with room.filling(folder.parent, None, room.SCRATCH_CURE):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked() -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        try:
            lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR)
        except OSError:
            folder.rmdir()
            raise
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / LOCK).exists():
            return folder, lock
        os.close(lock)  # Another process removed it before it was locked.


class SharedScratch:
    """A temporary folder that processes of one machine share by its name, removed by the last."""

    def __init__(self, name: str) -> None:
        # What only killed processes knew is not used again, of this name neither.
        sweep()
        self.folder, self._lock = _shared(Path(tempfile.gettempdir(), f"{PREFIX}{name}"))
        self.close = weakref.finalize(self, _leave, self.folder, self._lock)


def _shared(folder: Path) -> tuple[Path, int]:
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR)
        except FileNotFoundError:
            continue  # Removed just now.
        fcntl.flock(lock, fcntl.LOCK_SH)
        if _is_at(lock, folder / LOCK):
            return folder, lock
        os.close(lock)  # Another process removed it before it was locked.


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _leave(folder: Path, lock: int) -> None:
    with suppress(OSError):  # Another process uses it.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(folder)
    os.close(lock)


def _remove(folder: Path) -> None:
    """Remove a folder that this process has locked; at once for those that look for its name."""
    gone = folder.with_name(f"{PREFIX}gone-{uuid.uuid4().hex}")
    os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def sweep() -> None:
    """Remove the folders of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            lock = os.open(folder / LOCK, os.O_RDWR)
        except OSError:
            # It is being made or removed just now, or is another user's.
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(lock, folder / LOCK):
                _remove(folder)
        except OSError:
            pass  # Its process is alive.
        finally:
            os.close(lock)
