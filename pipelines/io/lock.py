"""One writer at a time: a lock beside what a job writes, on a disk or in an object store.

The holder renews its lock every few seconds. A lock whose holder died is recognised: at once
where the holder ran on this machine, else by its not being renewed. Neither disks nor object
stores promise that two who ask at the same moment see each other, so whoever publishes asks
again whether the lock is still its own: `still_held`.
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
"""A lock that was not renewed for so long has lost its holder."""
SETTLE_S = 0.3
"""After so long, whoever asked at the same time has written its lock too."""

_held: set[str] = set()
"""Owners of the locks that this process holds."""


@contextmanager
def locked(folder: str) -> Iterator[str]:
    """Hold the lock of a folder; gives the holder's id. `UserError` where another job has it."""
    uri = storage.join(folder, NAME)
    found = workspace.published(folder, NAME)
    if found and _lives(uri, found):
        raise UserError(
            f"{folder} is being written by another job ({_who(found)}): wait until it has ended, "
            "or choose another --name"
        )
    mine = _myself()
    storage.publish_json(mine, uri)
    time.sleep(SETTLE_S)
    if not still_held(folder, mine["owner"]):
        raise UserError(
            f"{folder} is being written by a job that was started at the same time: wait until "
            "it has ended, or choose another --name"
        )
    _held.add(mine["owner"])
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(folder, mine, ended), daemon=True)
    beat.start()
    try:
        yield mine["owner"]
    finally:
        ended.set()
        beat.join()
        _held.discard(mine["owner"])
        # Storage that is away keeps a lock, which is then found to be stale.
        with suppress(UserError, OSError):
            if still_held(folder, mine["owner"]):
                storage.delete(uri)


def still_held(folder: str, owner: str) -> bool:
    """Whether no other job has taken the lock; one that was removed is nobody's."""
    found = workspace.published(folder, NAME)
    return found is None or found["owner"] == owner


def _beat(folder: str, mine: dict[str, Any], ended: threading.Event) -> None:
    """Renew the lock, unless somebody else has taken it."""
    beats = 0
    while not ended.wait(BEAT_S):
        beats += 1
        with suppress(UserError, OSError):
            if still_held(folder, mine["owner"]):
                storage.publish_json(mine | {"beats": beats}, storage.join(folder, NAME))


def _lives(uri: str, lock: dict[str, Any]) -> bool:
    """Whether the holder of a lock is alive."""
    if lock["machine"] == _machine():
        # A process may outlive its job, in a notebook for one.
        let_go = lock["pid"] == os.getpid() and lock["owner"] not in _held
        return lock["born"] == _born(lock["pid"]) and not let_go
    print(f"{uri} is held by {_who(lock)}: watching whether it is renewed", flush=True)
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


def _myself() -> dict[str, Any]:
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
    """What tells this machine since its start, and this container, from all others."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return f"{socket.gethostname()} {uuid.getnode()}"


def _born(pid: int) -> str | None:
    """When a process was started, in the kernel's own count; None where there is none."""
    try:
        # The name in brackets may hold spaces.
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        with suppress(OSError):
            os.kill(pid, 0)
            return None if Path("/proc/self/stat").exists() else "unknown"
        return None
    return None if state[0] == "Z" else state[19]
