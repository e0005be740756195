"""The order of samples: which one comes when, in endless epochs.

It is a function of seed and epoch alone: a checkpoint needs the position only, and any number of
workers consumes the same samples in the same order.
"""

from __future__ import annotations

import numpy as np

from vqvdm.seeds import mix

Place = tuple[int, int]
"""The number of a shard, and that of a sample in it."""
MIXED = 16
"""Consecutive shards of an epoch whose samples are shuffled together."""


class SampleOrder:
    """Endless epochs over shards of given sizes, each sample once an epoch.

    Shards are shuffled, and samples are shuffled within groups of `mixed` consecutive shards: at
    a time, only one group of shards and the order of its samples are needed.
    """

    def __init__(self, sizes: list[int], seed: int, mixed: int = MIXED) -> None:
        assert sum(sizes) > 0
        self.sizes, self.seed, self.mixed = np.array(sizes, np.int64), seed, mixed
        self.length = int(self.sizes.sum())
        self._epoch, self._group = -1, (-1, -1)
        self._shards: np.ndarray = np.empty(0, np.int64)
        self._starts: np.ndarray = np.empty(0, np.int64)
        self._samples: np.ndarray = np.empty((0, 2), np.int64)

    def at(self, position: int) -> Place:
        """The sample at a position in [0, infinity), counted over all epochs."""
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
