"""Locks: one writer of a folder at a time, and no writer while other jobs read it.

A writer and each reader publish a note in the folder, and renew it every few seconds. The note of a
dead holder is recognised at once if the holder ran on this machine, and otherwise because it is not
renewed. Neither disks nor object stores guarantee that two jobs that lock at the same moment read
each other's note, and a job that was suspended, or whose store was away, may go on when another has
taken its place. So a writer asks again before it deletes or publishes: `refuse_taken`.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import Any

from pipelines.io import storage, workspace
from pipelines.io.connection import is_refusal
from pipelines.io.processes import born, machine
from vqvdm.errors import UserError

NAME = "lock.json"
"""The note of the writer."""
READERS = "readers"
"""Folder of the notes of readers."""
FILES = rf"{NAME}|{READERS}/[^/]+\.json"
"""A regular expression of the names of notes."""
BEAT_S = 5.0
STALE_S = 20.0
"""After this time without renewal, the holder of a note counts as dead."""
SETTLE_S = 0.3
"""After this time, a job that locks at the same moment has written its note too."""

SEEN_S = 10.0
"""After this time, a shared folder shows a note to every node: network disks cache for seconds."""

_held: dict[str, float] = {}
"""When each note that this process holds was renewed last, by its owner; by the clock on the wall,
as others stand still with a machine that sleeps."""
_writes: dict[str, str] = {}
"""The owner of the lock of each folder that this process writes."""


@contextmanager
def writing(folder: str, job: str) -> Iterator[str]:
    """Hold the lock of a folder; yields the holder's id.

    `UserError` if another job writes the folder, or reads it.
    """
    _refuse_writer(folder)
    own = _own_note(job)
    with _renewed(folder, NAME, own):
        time.sleep(SETTLE_S)
        if not still_held(folder, own["owner"]):
            raise UserError(
                f"{folder} is being written by a job that was started at the same time: wait "
                "until it has ended, or choose another --name"
            )
        readers = _readers(folder)
        reader = _living(folder, readers)
        if reader:
            raise UserError(
                f"{folder} is being read by {_who(reader)}: wait until it has ended, or stop it"
            )
        for name in readers:
            with suppress(UserError, OSError):
                storage.delete(storage.join(folder, name))
        _writes[folder] = own["owner"]
        try:
            yield own["owner"]
        finally:
            _writes.pop(folder, None)


@contextmanager
def reading(job: str, *folders: str) -> Iterator[None]:
    """Keep writers out of folders; `UserError` if one is at work."""
    started, others = time.monotonic(), {}
    with ExitStack() as notes:
        for folder in folders:
            if storage.has_no_folder(folder):
                continue  # No writer is to be kept out, and whoever reads makes no folder.
            own = _own_note(job)
            others[folder] = _forget_the_dead(folder)
            try:
                notes.enter_context(_renewed(folder, f"{READERS}/{own['owner']}.json", own))
            except (UserError, OSError) as error:
                # A read-only folder has no writer: it is read without a note.
                if not is_refusal(error):
                    raise
            _refuse_writer(folder)
        yield
        if time.monotonic() - started > STALE_S:
            for folder, found in others.items():
                _forget_the_stale(folder, found)


def still_held(folder: str, owner: str) -> bool:
    """Whether no other job has taken the lock. One that was removed was not taken, unless its
    holder, in this process, was silent for so long that another job may have come and gone."""
    return _is_of(folder, NAME, owner)


def refuse_taken(folder: str) -> None:
    """`UserError` if another job has taken the lock of a folder that this process writes. To be
    asked before anything is deleted or published that the other job may have made."""
    owner = _writes.get(folder)
    if owner and not still_held(folder, owner):
        raise UserError(
            f"another job has taken over {folder}, as this one was silent for a while: this one "
            "stops, and what is there is that of the other"
        )


def refuse_unseen(folder: str, owner: str) -> None:
    """`UserError` if this process does not see the lock of an owner on another node."""
    deadline = time.monotonic() + SEEN_S
    while (workspace.published(folder, NAME) or {}).get("owner") != owner:
        if time.monotonic() > deadline:
            raise UserError(
                f"{socket.gethostname()} does not see the lock of this job in {folder}: the root "
                "is not shared between the nodes (pass an s3:// URI or a folder that all of them "
                "mount), or another job has taken it over"
            )
        time.sleep(0.5)


@cache
def refuse_unseen_once(folder: str, owner: str) -> None:
    """As `refuse_unseen`, for what a worker process does again and again: only its first call asks
    the storage."""
    refuse_unseen(folder, owner)


def _refuse_writer(folder: str) -> None:
    found = workspace.published(folder, NAME)
    if found and _living(folder, {NAME: found}):
        raise UserError(
            f"{folder} is being written by another job ({_who(found)}): wait until it has ended, "
            "or choose another --name"
        )


def _readers(folder: str) -> dict[str, dict[str, Any]]:
    """The notes of readers, by name."""
    names = [file.uri[len(folder) + 1 :] for file in storage.walk(storage.join(folder, READERS))]
    notes = [(name, workspace.published(folder, name)) for name in names]
    return {name: note for name, note in notes if note and note["owner"] not in _held}


@contextmanager
def _renewed(folder: str, name: str, note: dict[str, Any]) -> Iterator[None]:
    """Publish a note, renew it meanwhile, and remove it at the end."""
    # Unchecked: a second job may write its note at the same moment, and the last one stays.
    storage.publish_json(note, storage.join(folder, name), check=False)
    _held[note["owner"]] = time.time()
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(folder, name, note, ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        _held.pop(note["owner"])
        # If storage does not answer, the note stays and becomes stale.
        with suppress(UserError, OSError):
            if _is_of(folder, name, note["owner"]):
                storage.delete(storage.join(folder, name))


def _beat(folder: str, name: str, note: dict[str, Any], ended: threading.Event) -> None:
    """Renew a note, unless another job has replaced it."""
    beats = 0
    while not ended.wait(BEAT_S):
        beats += 1
        with suppress(UserError, OSError):
            now = time.time()
            if _is_of(folder, name, note["owner"]):
                storage.publish_json(
                    note | {"beats": beats}, storage.join(folder, name), check=False
                )
                _held[note["owner"]] = now


def _is_of(folder: str, name: str, owner: str) -> bool:
    """Whether a note is of an owner, or removed: that of a writer while others saw it renewed."""
    found = workspace.published(folder, name)
    if found is None and name == NAME:
        now = time.time()
        return now - _held.get(owner, now) < STALE_S
    return found is None or found["owner"] == owner


def _forget_the_dead(folder: str) -> dict[str, dict[str, Any]]:
    """Remove the notes of readers that ran on this machine and have ended; returns the others."""
    found = _readers(folder)
    for name, note in list(found.items()):
        if note["machine"] == machine() and not _lives_here(note):
            del found[name]
            with suppress(UserError, OSError):
                storage.delete(storage.join(folder, name))
    return found


def _forget_the_stale(folder: str, found: dict[str, dict[str, Any]]) -> None:
    """Remove notes of other machines that were not renewed since they were found: these are gone.
    A holder that was only asleep writes its own again."""
    with suppress(UserError, OSError):
        for name, note in found.items():
            if note["machine"] != machine() and workspace.published(folder, name) == note:
                storage.delete(storage.join(folder, name))


def _lives_here(note: dict[str, Any]) -> bool:
    # A process may outlive its job, for example in a notebook.
    released = note["pid"] == os.getpid() and note["owner"] not in _held
    return note["born"] == born(note["pid"]) and not released


def _living(folder: str, notes: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """One of these notes whose holder is alive. Those of other machines are waited for together."""
    waiting = {}
    for name, note in notes.items():
        if note["machine"] != machine():
            waiting[name] = note
        elif _lives_here(note):
            return note
    for name, note in waiting.items():
        uri = storage.join(folder, name)
        print(f"{uri} is held by {_who(note)}: waiting for its renewal", flush=True)
    deadline = time.monotonic() + STALE_S
    while waiting and time.monotonic() < deadline:
        time.sleep(1)
        for name, note in list(waiting.items()):
            now = workspace.published(folder, name)
            if now is None:
                del waiting[name]
            elif now != note:
                return note
    return None


def _who(note: dict[str, Any]) -> str:
    return f"{note['job']}, process {note['pid']} on {note['host']}"


def _own_note(job: str) -> dict[str, Any]:
    pid = os.getpid()
    return {
        "owner": uuid.uuid4().hex,
        "job": job,
        "host": socket.gethostname(),
        "machine": machine(),
        "pid": pid,
        "born": born(pid),
        "beats": 0,
    }
