"""Temporary folders that are removed even if their process was killed.

A killed process cannot clean up. Each folder is locked by the process that made it, and the lock
ends with the process. The next call of `scratch` removes all folders that are not locked.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass  # Its process is alive.
        finally:
            os.close(lock)
