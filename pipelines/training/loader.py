"""Batches of samples, read ahead by threads, in the order of `SampleOrder`."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pipelines.io.arrays import Arrays, Members
from pipelines.io.markers import Marker
from pipelines.training.node_shards import NodeShards
from pipelines.training.order import Place, SampleOrder
from pipelines.training.packed import PackedSamples
from pipelines.training.shard_cache import ShardCache


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


class Samples(Protocol):
    """Where samples come from: `PackedSamples` in memory, or a `ShardCache`."""

    def expect(self, wanted: list[int]) -> None:
        """Prepare shards that are read soon, in the order of need."""

    def take(self, places: list[Place]) -> Arrays:
        """Samples at places, stacked."""

    def advice(self) -> str:
        """What makes reading dear, and what the user can do; empty if nothing does."""

    def close(self) -> None:
        """Free what is held."""


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
        cache_gb: float | None = None,
        pinned: bool = False,
        memory_gb: float | None = 0.0,
        name: str | None = None,
    ) -> None:
        """`threads` threads read `ahead` batches ahead, `cache_gb` of remote shards are cached
        (None: half of the disk that is free), and `pinned` batches are copied to a GPU
        asynchronously. Samples that are stored as arrays are kept in memory if all fit into
        `memory_gb` (None: half of the node's; 0: never). Loaders of one `name` share what they
        hold."""
        self.markers, self.ahead, self.pinned = markers, ahead, pinned
        self._shards = NodeShards(folder, job, name)
        self.cache: Samples
        packs = memory_gb is None or memory_gb > 0
        self._lacking = PackedSamples.lacking(self._shards, markers, memory_gb) if packs else ""
        if packs and not self._lacking:
            self.cache = PackedSamples(self._shards, markers, decode)
        else:
            self.cache = ShardCache(self._shards, markers, decode, cache_gb)
        self._pool = ThreadPoolExecutor(threads)

    def advice(self) -> list[str]:
        """What makes loading dear, and what the user can do, a line each."""
        return [words for words in (self._lacking, self.cache.advice()) if words]

    def close(self) -> None:
        """Free what is cached. What the loader has given stays valid; it gives nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.cache.close()
        self._shards.close()

    def _load(self, places: list[Place]) -> tuple[list[str], Arrays]:
        # No PyTorch in here: each thread would start its own pool, which competes with training's.
        keys = [self.markers[shard].keys[sample] for shard, sample in places]
        return keys, self.cache.take(places)

    def train(
        self, seed: int, position: int, batch_size: int, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Endless shuffled batches from a position on: rank's share of each global batch."""
        order = SampleOrder([len(marker.keys) for marker in self.markers], seed)
        share = batch_size // world

        def batches() -> Iterator[list[Place]]:
            group = None
            for start in itertools.count(position + rank * share, batch_size):
                if order.group_at(start) != group:
                    group = order.group_at(start)
                    self.cache.expect(order.shards_from(start))
                yield [order.at(place) for place in range(start, start + share)]

        return self._ahead(batches())

    def first(self, count: int, batch_size: int) -> Iterator[Batch]:
        """`count` samples spread evenly over the data, always the same ones, in batches."""
        ends = np.cumsum([len(marker.keys) for marker in self.markers])
        spread = np.unique(np.linspace(0, ends[-1] - 1, count).round().astype(int))
        shards = np.searchsorted(ends, spread, side="right")
        sizes = [len(self.markers[shard].keys) for shard in shards]
        samples = spread - ends[shards] + sizes
        chosen = list(zip(shards.tolist(), samples.tolist(), strict=True))
        starts = range(0, len(chosen), batch_size)
        return self._ahead(chosen[start : start + batch_size] for start in starts)

    def _ahead(self, batches: Iterator[list[Place]] | Any) -> Iterator[Batch]:
        waiting: deque[Future[tuple[list[str], Arrays]]] = deque()
        batches = iter(batches)
        for places in itertools.islice(batches, self.ahead):
            waiting.append(self._pool.submit(self._load, places))
        while waiting:
            keys, arrays = waiting.popleft().result()
            for places in itertools.islice(batches, 1):
                waiting.append(self._pool.submit(self._load, places))
            tensors = {name: _widened(torch.from_numpy(array)) for name, array in arrays.items()}
            if self.pinned:
                tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
            yield Batch(keys, tensors)


def _widened(tensor: Tensor) -> Tensor:
    """Half precision as float32, which holds the same numbers; five times as fast as by NumPy."""
    return tensor.float() if tensor.dtype == torch.float16 else tensor
