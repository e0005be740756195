"""One writer at a time: a lock beside what a job writes, on a disk or in an object store.

The holder renews its lock every few seconds. The lock of a dead holder is recognised at once if
the holder ran on this machine, and otherwise because it is not renewed. Neither disks nor object
stores guarantee that two jobs that lock at the same moment read each other's lock, so a job
checks again before it publishes: `still_held`.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipelines.io import storage, workspace
from vqvdm.errors import UserError

NAME = "lock.json"
BEAT_S = 5.0
STALE_S = 20.0
"""After this time without renewal, the holder of a lock counts as dead."""
SETTLE_S = 0.3
"""After this time, a job that locks at the same moment has written its lock too."""

_held: set[str] = set()
"""Owners of the locks that this process holds."""


@contextmanager
def locked(folder: str) -> Iterator[str]:
    """Hold the lock of a folder; yields the holder's id. `UserError` if another job holds it."""
    uri = storage.join(folder, NAME)
    found = workspace.published(folder, NAME)
    if found and _lives(uri, found):
        raise UserError(
            f"{folder} is being written by another job ({_who(found)}): wait until it has ended, "
            "or choose another --name"
        )
    own = _own_lock()
    storage.publish_json(own, uri)
    time.sleep(SETTLE_S)
    if not still_held(folder, own["owner"]):
        raise UserError(
            f"{folder} is being written by a job that was started at the same time: wait until "
            "it has ended, or choose another --name"
        )
    _held.add(own["owner"])
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(folder, own, ended), daemon=True)
    beat.start()
    try:
        yield own["owner"]
    finally:
        ended.set()
        beat.join()
        _held.discard(own["owner"])
        # If storage does not answer, the lock stays and becomes stale.
        with suppress(UserError, OSError):
            if still_held(folder, own["owner"]):
                storage.delete(uri)


def still_held(folder: str, owner: str) -> bool:
    """Whether no other job has taken the lock; a lock that was removed was not taken."""
    found = workspace.published(folder, NAME)
    return found is None or found["owner"] == owner


def _beat(folder: str, own: dict[str, Any], ended: threading.Event) -> None:
    """Renew the lock, unless another job has taken it."""
    beats = 0
    while not ended.wait(BEAT_S):
        beats += 1
        with suppress(UserError, OSError):
            if still_held(folder, own["owner"]):
                storage.publish_json(own | {"beats": beats}, storage.join(folder, NAME))


def _lives(uri: str, lock: dict[str, Any]) -> bool:
    """Whether the holder of a lock is alive."""
    if lock["machine"] == _machine():
        # A process may outlive its job, for example in a notebook.
        released = lock["pid"] == os.getpid() and lock["owner"] not in _held
        return lock["born"] == _born(lock["pid"]) and not released
    print(f"{uri} is held by {_who(lock)}: waiting for its renewal", flush=True)
    folder, deadline = uri.removesuffix(f"/{NAME}"), time.monotonic() + STALE_S
    while time.monotonic() < deadline:
        time.sleep(1)
        now = workspace.published(folder, NAME)
        if now is None:
            return False
        if now != lock:
            return True
    return False


def _who(lock: dict[str, Any]) -> str:
    return f"process {lock['pid']} on {lock['host']}"


def _own_lock() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "owner": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": pid,
        "born": _born(pid),
        "beats": 0,
    }


def _machine() -> str:
    """Identifies this machine since its last boot, and this container."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return f"{socket.gethostname()} {uuid.getnode()}"


def _born(pid: int) -> str | None:
    """When a process was started, in the kernel's clock ticks; None if there is no such process."""
    try:
        # The name in brackets may hold spaces.
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        with suppress(OSError):
            os.kill(pid, 0)
            return None if Path("/proc/self/stat").exists() else "unknown"
        return None
    return None if state[0] == "Z" else state[19]
