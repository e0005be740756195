"""Small real shards: three of numbered samples for loaders, one of any samples."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from pipelines.io.markers import Marker
from pipelines.io.shards import ShardWriter
from pipelines.training.loader import Batch

KEYS = ["a0", "a1", "a2", "b0", "c0", "c1", "c2"]
SAMPLES = {f"key{i}": {"txt": b"%d" % i * 700, "json": b'{"n": %d}' % i} for i in range(5)}


def write_shards(folder: str) -> list[Marker]:
    markers = []
    for index, letter in enumerate("abc"):
        with ShardWriter(folder, f"train-{index:06d}") as writer:
            for key in (key for key in KEYS if key[0] == letter):
                writer.add(key, {"txt": str(KEYS.index(key)).encode()})
            markers.append(writer.publish([letter], "spec", "made", {}))
    return markers


def number(members: dict[str, bytes]) -> dict[str, Tensor]:
    return {"number": torch.tensor(int(members["txt"]))}


def keys(batches: Iterator[Batch], count: int) -> list[list[str]]:
    return [batch.keys for batch in itertools.islice(batches, count)]


def write_shard(
    folder: Path, order: list[str], name: str = "train-000000", spec: str = "s"
) -> Marker:
    with ShardWriter(str(folder), name) as writer:
        for key in order:
            writer.add(key, SAMPLES[key])
        return writer.publish(["video"], spec, "plan", {"videos": []})
