"""The order of samples, and how they are read ahead.

The order is a function of seed and epoch alone: a checkpoint needs the position only, and any
number of workers consumes the same samples in the same order.
"""

from __future__ import annotations

import io
import itertools
import json
import tempfile
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.io import shards, storage
from pipelines.io.shards import Marker, ShardReader
from pipelines.io.video import decode_clip
from vqvdm.seeds import mix

Members = dict[str, bytes]


class SampleOrder:
    """Endless epochs over shards of given sizes, each sample once an epoch.

    Shards are shuffled, and samples among `mixed` shards in a row, so that no more than so many
    shards have to be at hand at a time.
    """

    def __init__(self, sizes: list[int], seed: int, mixed: int = 16) -> None:
        assert sum(sizes) > 0
        self.sizes, self.seed, self.mixed = sizes, seed, mixed
        self.length = sum(sizes)
        self._epoch = -1
        self._samples: np.ndarray = np.empty((0, 2), np.int64)

    def at(self, position: int) -> tuple[int, int]:
        """Shard and sample at a position in [0, infinity), counted over all epochs."""
        epoch, offset = divmod(position, self.length)
        if epoch != self._epoch:
            self._epoch, self._samples = epoch, self._shuffled(epoch)
        shard, sample = self._samples[offset]
        return int(shard), int(sample)

    def _shuffled(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng(mix(self.seed, epoch))
        order = rng.permutation(len(self.sizes))
        parts = []
        for start in range(0, len(order), self.mixed):
            group = [
                np.stack([np.full(self.sizes[s], s), np.arange(self.sizes[s])], axis=1)
                for s in order[start : start + self.mixed]
            ]
            parts.append(rng.permutation(np.concatenate(group)))
        return np.concatenate(parts)


class ShardCache:
    """Verified local copies of shards, the most recently used ones kept."""

    def __init__(self, folder: str, markers: list[Marker], job: str, kept: int) -> None:
        self.folder, self.markers, self.job, self.kept = folder, markers, job, kept
        self._readers: OrderedDict[int, ShardReader] = OrderedDict()
        self._lock = threading.Lock()
        self._temporary = tempfile.TemporaryDirectory(prefix="vqvdm-cache-")

    def read(self, shard: int, key: str) -> Members:
        """Members of one sample; `UserError` names a shard that does not match its marker."""
        with self._lock:
            if shard not in self._readers:
                self._readers[shard] = self._open(shard)
            self._readers.move_to_end(shard)
            reader = self._readers[shard]
            members = reader[key]
            if len(self._readers) > self.kept:
                _, oldest = self._readers.popitem(last=False)
                if oldest.path.startswith(self._temporary.name):
                    Path(oldest.path).unlink()
        return members

    def _open(self, shard: int) -> ShardReader:
        marker = self.markers[shard]
        uri = storage.join(self.folder, f"{marker.name}.tar")
        path = uri
        if not storage.is_local(uri):
            path = str(Path(self._temporary.name, f"{marker.name}.tar"))
            with shards.missing_is_named(uri, self.job):
                Path(path).write_bytes(storage.read_bytes(uri))
        return shards.open_verified(path, marker, uri, self.job)


@dataclass(frozen=True)
class Batch:
    """A worker's share of a step: stacked tensors, and the keys they came from."""

    keys: list[str]
    tensors: dict[str, Tensor]


Arrays = dict[str, np.ndarray]


def clip_arrays(members: Members) -> Arrays:
    """A clip sample: video uint8 (T, H, W, 3), class index (-1 for none), frames a second."""
    return {"video": decode_clip(members["mp4"])} | _labels(members)


def latent_arrays(members: Members) -> Arrays:
    """A latent sample: raw latent float32 (C, T, H, W), class index, frames a second."""
    return {"latent": decode_array(members["npy"])} | _labels(members)


def pixel_arrays(members: Members) -> Arrays:
    """A clip sample as a latent one: pixels float32 (3, T, H, W) in [-1, 1]."""
    video_CTHW = decode_clip(members["mp4"]).transpose(3, 0, 1, 2)
    return {"latent": video_CTHW.astype(np.float32) / 127.5 - 1} | _labels(members)


def decode_array(data: bytes) -> np.ndarray:
    """A .npy file in memory as float32; pickled objects are refused."""
    return np.load(io.BytesIO(data), allow_pickle=False).astype(np.float32)


def _labels(members: Members) -> Arrays:
    about = json.loads(members["json"])
    index = about["class_index"]
    return {
        "class_index": np.array(-1 if index is None else index, np.int64),
        "fps": np.array(about["fps"], np.float32),
    }


class Loader:
    """Batches of one worker, read and decoded ahead by threads."""

    def __init__(
        self,
        folder: str,
        markers: list[Marker],
        job: str,
        decode: Callable[[Members], Arrays],
        threads: int = 2,
        ahead: int = 4,
    ) -> None:
        self.markers, self.decode = markers, decode
        self.ahead = ahead
        self._cache = ShardCache(folder, markers, job, kept=64)
        self._pool = ThreadPoolExecutor(threads)

    def _load(self, places: list[tuple[int, int]]) -> tuple[list[str], Arrays]:
        # No PyTorch in here: each thread would start a pool of its own, which fights training's.
        keys = [self.markers[shard].keys[sample] for shard, sample in places]
        samples = [
            self.decode(self._cache.read(shard, key))
            for (shard, _), key in zip(places, keys, strict=True)
        ]
        names = samples[0].keys()
        return keys, {name: np.stack([sample[name] for sample in samples]) for name in names}

    def train(
        self, seed: int, position: int, batch_size: int, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Endless shuffled batches from a position on: rank's share of each global batch."""
        order = SampleOrder([len(marker.keys) for marker in self.markers], seed)
        share = batch_size // world

        def batches() -> Iterator[list[tuple[int, int]]]:
            for start in itertools.count(position + rank * share, batch_size):
                yield [order.at(place) for place in range(start, start + share)]

        return self._ahead(batches())

    def first(self, count: int, batch_size: int) -> Iterator[Batch]:
        """`count` samples spread evenly over the data, always the same ones, in batches."""
        places = [(s, k) for s, marker in enumerate(self.markers) for k in range(len(marker.keys))]
        picks = np.unique(np.linspace(0, len(places) - 1, count).round().astype(int))
        chosen = [places[pick] for pick in picks]
        starts = range(0, len(chosen), batch_size)
        return self._ahead(chosen[start : start + batch_size] for start in starts)

    def _ahead(self, batches: Iterator[list[tuple[int, int]]] | Any) -> Iterator[Batch]:
        waiting: deque[Future[tuple[list[str], Arrays]]] = deque()
        batches = iter(batches)
        for places in itertools.islice(batches, self.ahead):
            waiting.append(self._pool.submit(self._load, places))
        while waiting:
            keys, arrays = waiting.popleft().result()
            for places in itertools.islice(batches, 1):
                waiting.append(self._pool.submit(self._load, places))
            yield Batch(keys, {name: torch.from_numpy(array) for name, array in arrays.items()})
