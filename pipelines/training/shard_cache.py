"""A cache of verified shards, fetched before they are read."""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pipelines.io import shards, storage
from pipelines.io.arrays import Members
from pipelines.io.connection import is_local
from pipelines.io.markers import Marker
from pipelines.io.shards import ShardReader


class ShardCache:
    """Verified shards: of remote ones, copies of the most recently used.

    Shards that are expected are fetched and verified by threads in the background, as far as they
    fit the limit.
    """

    def __init__(self, folder: str, markers: list[Marker], job: str, cache_gb: float) -> None:
        self.folder, self.markers, self.job = folder, markers, job
        self.limit_bytes, self.held_bytes = cache_gb * 1e9, 0
        self._open_shards: OrderedDict[int, Future[ShardReader]] = OrderedDict()
        self._lock = threading.Lock()
        self._fetchers = ThreadPoolExecutor(2)
        self._temporary = tempfile.TemporaryDirectory(prefix="vqvdm-cache-")

    def read(self, shard: int, key: str) -> Members:
        """Members of one sample; `UserError` names a shard that does not match its marker."""
        while True:
            with self._lock:
                waiting = self._get(shard)
                self._open_shards.move_to_end(shard)
                self._make_room(shard)
            try:
                return waiting.result()[key]
            except FileNotFoundError:
                # Another thread may have dropped it just now.
                if self._open_shards.get(shard) is waiting:
                    raise

    def expect(self, wanted: list[int]) -> None:
        """Fetch shards that are read soon, in the order of need, as far as they fit."""
        sizes = itertools.accumulate(self.markers[shard].bytes for shard in wanted)
        fitting = [s for s, total in zip(wanted, sizes, strict=True) if total <= self.limit_bytes]
        with self._lock:
            for shard in fitting:
                self._get(shard)
            # The order in which shards are dropped: what is needed first is dropped last.
            for shard in reversed(fitting):
                self._open_shards.move_to_end(shard)
            self._make_room(wanted[0])

    def _get(self, shard: int) -> Future[ShardReader]:
        if shard not in self._open_shards:
            self._open_shards[shard] = self._fetchers.submit(self._fetch, shard)
            self.held_bytes += self.markers[shard].bytes
        return self._open_shards[shard]

    def _make_room(self, spared: int) -> None:
        """Drop the least recently used shards, but never the one in use."""
        if self.held_bytes <= self.limit_bytes:
            return
        for shard in list(self._open_shards):
            if self.held_bytes <= self.limit_bytes:
                return
            if shard != spared and self._open_shards[shard].done():
                del self._open_shards[shard]
                self.held_bytes -= self.markers[shard].bytes
                self._copy(shard).unlink(missing_ok=True)

    def _copy(self, shard: int) -> Path:
        return Path(self._temporary.name, f"{self.markers[shard].name}.tar")

    def _fetch(self, shard: int) -> ShardReader:
        marker = self.markers[shard]
        uri = storage.join(self.folder, f"{marker.name}.tar")
        path = uri
        if not is_local(uri):
            path = str(self._copy(shard))
            with shards.missing_is_named(uri, self.job), storage.local_copy(uri) as copy:
                os.replace(copy, path)
        return shards.open_verified(path, marker, uri, self.job)
