"""The order of samples, and how they are read ahead.

The order is a function of seed and epoch alone: a checkpoint needs the position only, and any
number of workers consumes the same samples in the same order.
"""

from __future__ import annotations

import io
import itertools
import json
import os
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
    shards have to be at hand at a time, nor the order of more samples than theirs.
    """

    def __init__(self, sizes: list[int], seed: int, mixed: int = 16) -> None:
        assert sum(sizes) > 0
        self.sizes, self.seed, self.mixed = np.array(sizes, np.int64), seed, mixed
        self.length = int(self.sizes.sum())
        self._epoch, self._group = -1, (-1, -1)
        self._shards: np.ndarray = np.empty(0, np.int64)
        self._starts: np.ndarray = np.empty(0, np.int64)
        self._samples: np.ndarray = np.empty((0, 2), np.int64)

    def at(self, position: int) -> tuple[int, int]:
        """Shard and sample at a position in [0, infinity), counted over all epochs."""
        epoch, group, offset = self._find(position)
        if (epoch, group) != self._group:
            self._group, self._samples = (epoch, group), self._shuffled(epoch, group)
        shard, sample = self._samples[offset]
        return int(shard), int(sample)

    def group_at(self, position: int) -> tuple[int, int]:
        """Epoch, and which group of mixed shards within it."""
        return self._find(position)[:2]

    def shards_from(self, position: int) -> list[int]:
        """The shards that are mixed at a position, and those that are mixed next."""
        epoch, group, _ = self._find(position)
        here = self._of_group(group)
        if (group + 1) * self.mixed < len(self._shards):
            return here + self._of_group(group + 1)
        self._shuffle_shards(epoch + 1)
        return here + self._of_group(0)

    def _find(self, position: int) -> tuple[int, int, int]:
        """Epoch, group of shards, and place within it."""
        epoch, offset = divmod(position, self.length)
        self._shuffle_shards(epoch)
        group = int(np.searchsorted(self._starts, offset, "right")) - 1
        return epoch, group, offset - int(self._starts[group])

    def _shuffle_shards(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        self._epoch = epoch
        self._shards = np.random.default_rng(mix(self.seed, epoch)).permutation(len(self.sizes))
        before = np.concatenate([[0], np.cumsum(self.sizes[self._shards])])
        self._starts = before[: -1 : self.mixed]

    def _of_group(self, group: int) -> list[int]:
        return self._shards[group * self.mixed : (group + 1) * self.mixed].tolist()

    def _shuffled(self, epoch: int, group: int) -> np.ndarray:
        samples = [
            np.stack([np.full(self.sizes[s], s), np.arange(self.sizes[s])], axis=1)
            for s in self._of_group(group)
        ]
        return np.random.default_rng(mix(self.seed, epoch, group)).permutation(
            np.concatenate(samples)
        )


class ShardCache:
    """Verified shards at hand: copies of remote ones, the most recently used of them kept.

    Shards that are expected are fetched and verified by a thread of their own, in so far as they
    fit among the rest.
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
                # Another thread may have made room of it just now.
                if self._open_shards.get(shard) is waiting:
                    raise

    def expect(self, wanted: list[int]) -> None:
        """Fetch shards that are soon read, in the order of need, as far as they fit."""
        sizes = itertools.accumulate(self.markers[shard].bytes for shard in wanted)
        fitting = [s for s, total in zip(wanted, sizes, strict=True) if total <= self.limit_bytes]
        with self._lock:
            for shard in fitting:
                self._get(shard)
            # The order in which room is made: what is needed first goes last.
            for shard in reversed(fitting):
                self._open_shards.move_to_end(shard)
            self._make_room(wanted[0])

    def _get(self, shard: int) -> Future[ShardReader]:
        if shard not in self._open_shards:
            self._open_shards[shard] = self._fetchers.submit(self._fetch, shard)
            self.held_bytes += self.markers[shard].bytes
        return self._open_shards[shard]

    def _make_room(self, spared: int) -> None:
        """Drop what was used longest ago, though never the shard in use."""
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
        if not storage.is_local(uri):
            path = str(self._copy(shard))
            with shards.missing_is_named(uri, self.job), storage.local_copy(uri) as copy:
                os.replace(copy, path)
        return shards.open_verified(path, marker, uri, self.job)


@dataclass(frozen=True)
class Batch:
    """A worker's share of a step: stacked tensors, and the keys they came from."""

    keys: list[str]
    tensors: dict[str, Tensor]

    def split(self, parts: int) -> list[Batch]:
        """Parts of equal size, in order."""
        size = len(self.keys) // parts
        return [
            Batch(
                self.keys[start : start + size],
                {name: tensor[start : start + size] for name, tensor in self.tensors.items()},
            )
            for start in range(0, len(self.keys), size)
        ]

    def to(self, device: torch.device) -> Batch:
        """On another device; from pinned memory, without waiting for the copy."""
        return Batch(
            self.keys, {k: v.to(device, non_blocking=True) for k, v in self.tensors.items()}
        )


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
        cache_gb: float = 8.0,
        pinned: bool = False,
    ) -> None:
        """`ahead` batches are read ahead by `threads`, and `cache_gb` of shards kept at hand;
        batches are `pinned` for a GPU to copy them by itself."""
        self.markers, self.decode = markers, decode
        self.ahead, self.pinned = ahead, pinned
        self.cache = ShardCache(folder, markers, job, cache_gb)
        self._pool = ThreadPoolExecutor(threads)

    def _load(self, places: list[tuple[int, int]]) -> tuple[list[str], Arrays]:
        # No PyTorch in here: each thread would start a pool of its own, which fights training's.
        keys = [self.markers[shard].keys[sample] for shard, sample in places]
        samples = [
            self.decode(self.cache.read(shard, key))
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
            group = None
            for start in itertools.count(position + rank * share, batch_size):
                if order.group_at(start) != group:
                    group = order.group_at(start)
                    self.cache.expect(order.shards_from(start))
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
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            if self.pinned:
                tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
            yield Batch(keys, tensors)
