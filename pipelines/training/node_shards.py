"""Verified shards of a node: each is downloaded and hashed once, by one of the workers there."""

from __future__ import annotations

import fcntl
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.io import shards, storage
from pipelines.io.connection import is_local
from pipelines.io.markers import Marker
from pipelines.io.scratch import SharedScratch
from pipelines.io.shards import ShardReader


class NodeShards:
    """Shards in a temporary folder that all workers of a job on one machine share.

    Local shards stay where they are. Of a remote one there is one copy, to which every worker that
    uses it holds a hard link of its own: the last one to drop its link removes the copy. A copy
    gets its name, and a local shard its note, once it is verified; so a killed worker leaves
    nothing that others trust.
    """

    def __init__(self, folder: str, job: str, name: str | None = None) -> None:
        """`name` is that of the training: workers of the same name share."""
        self.uri, self.job = folder, job
        self._shared = SharedScratch(name or uuid.uuid4().hex)
        self.folder = self._shared.folder
        self._links = Path(tempfile.mkdtemp(prefix="links-", dir=self.folder))

    @property
    def remote(self) -> bool:
        return not is_local(self.uri)

    def take(self, marker: Marker) -> ShardReader:
        """A verified shard; `UserError` names one that does not match its marker."""
        uri = storage.join(self.uri, f"{marker.name}.tar")
        with self.locked(marker.name):
            path = self._download(marker, uri) if self.remote else self._verify(marker, uri)
        reader = ShardReader(path)
        shards.check_keys(uri, reader.keys, marker.keys, self.job)
        return reader

    def drop(self, marker: Marker) -> None:
        """Let go of what was taken."""
        if not self.remote:
            return
        with self.locked(marker.name):
            self._link(marker).unlink(missing_ok=True)
            copy = self._copy(marker)
            if copy.exists() and copy.stat().st_nlink == 1:
                copy.unlink()

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Within the context, no other thread or process of the node does the same."""
        with open(self.folder / f"{name}.lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def close(self) -> None:
        """Leave the folder; the last worker removes it."""
        self._shared.close()

    def _copy(self, marker: Marker) -> Path:
        return self.folder / f"{marker.name}.tar"

    def _link(self, marker: Marker) -> Path:
        return self._links / f"{marker.name}.tar"

    def _download(self, marker: Marker, uri: str) -> str:
        copy, link = self._copy(marker), self._link(marker)
        if not copy.exists():
            with shards.missing_is_named(uri, self.job), storage.local_copy(uri) as path:
                shards.verify_file(path, marker, uri, self.job)
                os.replace(path, copy)
        if not link.exists():
            os.link(copy, link)
        return str(link)

    def _verify(self, marker: Marker, uri: str) -> str:
        path, note = uri.removeprefix("file://"), self.folder / f"{marker.name}.verified"
        if not (note.exists() and note.read_text() == _state(path)):
            shards.verify_file(path, marker, uri, self.job)
            note.write_text(_state(path))
        return path


def _state(path: str) -> str:
    """What tells that a file is still the one that was verified."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return "missing"
    return f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"
