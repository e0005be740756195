"""A cache of verified shards, fetched before they are read."""

from __future__ import annotations

import itertools
import math
import shutil
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from pipelines.io.arrays import Arrays, Members
from pipelines.io.markers import Marker
from pipelines.io.shards import ShardReader
from pipelines.training.node_shards import NodeShards
from pipelines.training.order import MIXED, Place

MOST_LOCAL = 256
"""Local shards whose lists of members are held in memory: more than are read at a time."""


def in_gb(size: float) -> float:
    """Bytes in GB, rounded up to tenths."""
    return math.ceil(size / 1e8) / 10


class ShardCache:
    """Verified shards: of remote ones, copies of the most recently used.

    Shards that are expected are fetched and verified by threads in the background, as far as they
    fit the limit. The copies are those of all workers of the node; each has its own order of use.
    """

    def __init__(
        self,
        shards: NodeShards,
        markers: list[Marker],
        decode: Callable[[Members], Arrays],
        cache_gb: float | None = None,
    ) -> None:
        """`cache_gb` is for copies of remote shards; by default half of the disk that is free."""
        self.shards, self.markers, self.decode = shards, markers, decode
        sizes = [marker.bytes if shards.remote else 1 for marker in markers]
        self.sizes, self.held = sizes, 0
        self.limit: float = MOST_LOCAL
        if shards.remote:
            free = shutil.disk_usage(shards.folder).free
            self.limit = free / 2 if cache_gb is None else cache_gb * 1e9
        self._open_shards: OrderedDict[int, Future[ShardReader]] = OrderedDict()
        self._lock = threading.Lock()
        self._fetchers = ThreadPoolExecutor(2)

    def take(self, places: list[Place]) -> Arrays:
        """Samples at places, decoded and stacked; `UserError` names a shard that does not match its
        marker."""
        read = (self._read(shard, self.markers[shard].keys[sample]) for shard, sample in places)
        samples = [self.decode(members) for members in read]
        return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}

    def _read(self, shard: int, key: str) -> Members:
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

    def advice(self) -> str:
        """What the user can do if the shards that are mixed at a time do not fit; else nothing.

        Samples come in random order from all of them: a shard that was dropped is soon read again.
        """
        needed = sum(sorted(self.sizes, reverse=True)[:MIXED])
        if not self.shards.remote or needed <= self.limit:
            return ""
        cure = f"--cache-gb {in_gb(needed):g}"
        if shutil.disk_usage(self.shards.folder).free < needed:
            where = f"{self.shards.folder.parent} on {socket.gethostname()}"
            cure += f", and more room in {where} or another TMPDIR"
        return (
            f"note: the {MIXED} shards that are mixed at a time take up to {in_gb(needed):g} GB, "
            f"and {self.limit / 1e9:.1f} GB of disk are for them: each is downloaded many times; "
            f"pass {cure}, or make smaller shards (--videos-per-shard)"
        )

    def expect(self, wanted: list[int]) -> None:
        """Fetch shards that are read soon, in the order of need, as far as they fit."""
        totals = itertools.accumulate(self.sizes[shard] for shard in wanted)
        fitting = [s for s, total in zip(wanted, totals, strict=True) if total <= self.limit]
        with self._lock:
            for shard in fitting:
                self._get(shard)
            # The order in which shards are dropped: what is needed first is dropped last.
            for shard in reversed(fitting):
                self._open_shards.move_to_end(shard)
            self._make_room(wanted[0])

    def close(self) -> None:
        """Drop all shards."""
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            for shard, waiting in self._open_shards.items():
                if waiting.done():
                    self.shards.drop(self.markers[shard])
            self._open_shards.clear()

    def _get(self, shard: int) -> Future[ShardReader]:
        if shard not in self._open_shards:
            self._open_shards[shard] = self._fetchers.submit(self.shards.take, self.markers[shard])
            self.held += self.sizes[shard]
        return self._open_shards[shard]

    def _make_room(self, spared: int) -> None:
        """Drop the least recently used shards, but never the one in use."""
        if self.held <= self.limit:
            return
        for shard in list(self._open_shards):
            if self.held <= self.limit:
                return
            if shard != spared and self._open_shards[shard].done():
                del self._open_shards[shard]
                self.held -= self.sizes[shard]
                self.shards.drop(self.markers[shard])
