"""Samples that are small, such as latents: all of a split in one array, once a node."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from pipelines.cluster.cores import local_memory
from pipelines.io.arrays import Arrays, Members
from pipelines.io.markers import Marker
from pipelines.training.node_shards import NodeShards
from pipelines.training.order import Place
from pipelines.training.shard_cache import in_gb
from vqvdm.errors import UserError


class PackedSamples:
    """Samples of equal shape in one array of records, in a file that the workers of a node share.

    The file is mapped into memory, and holds one page for all workers. A shard is decoded into it
    when it is expected, by the first worker that comes; after that a sample is a copy of bytes.
    """

    def __init__(
        self, shards: NodeShards, markers: list[Marker], decode: Callable[[Members], Arrays]
    ) -> None:
        self.shards, self.markers, self.decode = shards, markers, decode
        ends = np.cumsum([len(marker.keys) for marker in markers])
        self._starts, self._count = np.concatenate([[0], ends[:-1]]), int(ends[-1])
        self._packing: dict[int, Future[None]] = {}
        self._rows: Any = None
        self._lock = threading.Lock()
        self._packers = ThreadPoolExecutor(2)

    @staticmethod
    def lacking(shards: NodeShards, markers: list[Marker], memory_gb: float | None = None) -> str:
        """Why shards of arrays, which are larger than these, do not fit into memory or on disk, and
        what the user can do; nothing if they fit. By default they get half of the memory."""
        needed = sum(marker.bytes for marker in markers)
        limit = local_memory() / 2 if memory_gb is None else memory_gb * 1e9
        # Where another worker has reserved the space, it is no longer free.
        made = _file(shards, markers).exists()
        if needed > limit:
            why = f"{limit / 1e9:.1f} GB of memory are for them: pass --memory-gb {in_gb(needed):g}"
            if needed > local_memory():
                why += f" on nodes with as much ({socket.gethostname()} has less)"
        elif not made and needed > shutil.disk_usage(shards.folder).free / 2:
            why = (
                f"{shards.folder.parent} on {socket.gethostname()} has less than twice the room: "
                "make room, or set TMPDIR to another folder"
            )
        else:
            return ""
        return (
            f"note: the latents take {in_gb(needed):g} GB, and {why}; until then each is read from "
            "its shard each time, at some ten times the processor time"
        )

    def expect(self, wanted: list[int]) -> None:
        """Decode shards that are read soon."""
        for shard in wanted:
            self._get(shard)

    def take(self, places: list[Place]) -> Arrays:
        """Samples at places, stacked."""
        for shard in {shard for shard, _ in places}:
            self._get(shard).result()
        shard_B, sample_B = np.array(places).T
        records = self._rows[self._starts[shard_B] + sample_B]
        return {name: np.ascontiguousarray(records[name]) for name in records.dtype.names}

    def advice(self) -> str:
        """Nothing: a sample costs a copy."""
        return ""

    def close(self) -> None:
        """Decode nothing more."""
        self._packers.shutdown(wait=False, cancel_futures=True)

    def _get(self, shard: int) -> Future[None]:
        with self._lock:
            if shard not in self._packing:
                self._packing[shard] = self._packers.submit(self._pack, shard)
            return self._packing[shard]

    def _pack(self, shard: int) -> None:
        marker = self.markers[shard]
        # Written last: what a killed worker has begun is done again.
        done = self.shards.folder / f"{marker.name}.packed"
        with self.shards.locked(f"{marker.name}.packed"):
            if done.exists():
                self._map(None)
                return
            reader = self.shards.take(marker)
            for place, key in enumerate(marker.keys, int(self._starts[shard])):
                sample = self.decode(reader[key])
                rows = self._map(sample)
                assert _layout(sample) == rows.dtype, f"{key} of {marker.name} has another shape"
                rows[place] = tuple(sample.values())
            self.shards.drop(marker)
            done.touch()

    def _map(self, sample: Arrays | None) -> Any:
        """The array in the file, which is made for the first sample of all."""
        with self._lock:
            if self._rows is None:
                path = _file(self.shards, self.markers)
                with self.shards.locked(path.name):
                    if sample and not path.exists():
                        _make(path, self._count, _layout(sample))
                self._rows = open_memmap(path, mode="r+")
            return self._rows


def _file(shards: NodeShards, markers: list[Marker]) -> Path:
    return shards.folder / f"{markers[0].split}.npy"


def _layout(sample: Arrays) -> np.dtype:
    return np.dtype([(name, a.dtype, a.shape) for name, a in sample.items()], align=True)


def _make(path: Path, count: int, layout: np.dtype) -> None:
    """An empty array of records in a file, whose space on disk is reserved."""
    unfinished = path.with_suffix(".part")
    open_memmap(unfinished, mode="w+", dtype=layout, shape=(count,))
    try:
        # A mapped file that finds no space when it is written to ends the process.
        with open(unfinished, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.stat(unfinished).st_size)
    except OSError as error:
        raise UserError(
            f"{path.parent} has no room for the latents ({error}): pass --memory-gb 0"
        ) from error
    os.replace(unfinished, path)
