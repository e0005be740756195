"""Cached shards: within their limit, fetched before they are needed, verified."""

import itertools
import shutil
import uuid
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.io import storage
from pipelines.io.markers import Marker
from pipelines.io.shards import ShardWriter
from pipelines.training.loader import Loader
from pipelines.training.node_shards import NodeShards
from pipelines.training.order import MIXED
from pipelines.training.shard_cache import ShardCache
from tests.small_shards import KEYS, number, write_shards


def test_cached_shards_stay_within_their_limit() -> None:
    folder = f"memory://{uuid.uuid4().hex}/clips"
    markers = write_shards(folder)
    largest = max(marker.bytes for marker in markers)
    with closing(Loader(folder, markers, "job", number, cache_gb=1.5 * largest / 1e9)) as loader:
        assert isinstance(loader.cache, ShardCache)
        with closing(loader.train(0, 0, 3)) as batches:
            for batch in itertools.islice(batches, 30):
                assert batch.tensors["number"].tolist() == [KEYS.index(k) for k in batch.keys]
                # Shards being fetched and the one in use may exceed it.
                assert loader.cache.held <= loader.cache.limit + 2 * largest
        for threads in (loader._pool, loader.cache._fetchers):
            threads.shutdown(wait=True, cancel_futures=True)
        copies = list(loader.cache.shards.folder.glob("*.tar"))
        assert 0 < len(copies) <= 3
    assert not loader.cache.shards.folder.exists()


def test_local_shards_are_read_where_they_are_and_hashed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    markers, hashed = write_shards(str(tmp_path)), []
    whole = storage.sha256
    monkeypatch.setattr(storage, "sha256", lambda uri: (hashed.append(uri), whole(uri))[1])
    with closing(Loader(str(tmp_path), markers, "job", number, cache_gb=1e-9)) as loader:
        for _ in itertools.islice(loader.train(0, 0, 3), 30):
            pass
        assert isinstance(loader.cache, ShardCache)
        assert list(loader.cache.shards.folder.rglob("*.tar")) == []
    assert sorted(hashed) == [f"{tmp_path}/{marker.name}.tar" for marker in markers]


def test_the_next_shards_are_fetched_before_they_are_needed() -> None:
    folder = f"memory://{uuid.uuid4().hex}/clips"
    cache = ShardCache(NodeShards(folder, "job"), write_shards(folder), number, 8.0)
    cache.expect([0, 2])
    for waiting in cache._open_shards.values():
        waiting.result(10)
    for name in ("train-000000.tar", "train-000002.tar"):
        storage.delete(storage.join(folder, name))
    assert cache.take([(2, 0), (0, 0)])["number"].tolist() == [4, 0]


def write_many(folder: str, count: int, claimed: int) -> list[Marker]:
    """Shards of two samples that claim a size."""
    markers = []
    for index in range(count):
        with ShardWriter(folder, f"train-{index:06d}") as writer:
            for key in ("a", "b"):
                writer.add(f"{index}{key}", {"txt": b"0"})
            markers.append(replace(writer.publish([], "spec", "made", {}), bytes=claimed))
    return markers


def downloads(folder: str, markers: list[Marker], cache_gb: float | None) -> tuple[int, list[str]]:
    """Shards that an epoch downloads, and what the user is told."""
    fetched = []
    whole = storage.local_copy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "local_copy", lambda uri: (fetched.append(uri), whole(uri))[1])
        with closing(Loader(folder, markers, "job", number, cache_gb=cache_gb)) as loader:
            for _ in itertools.islice(loader.train(0, 0, 2), len(markers)):
                pass
            assert isinstance(loader.cache, ShardCache)
            for threads in (loader._pool, loader.cache._fetchers):
                threads.shutdown(wait=True, cancel_futures=True)
            # Copies are hashed too.
            return sum(uri.startswith(folder) for uri in fetched), loader.advice()


def test_shards_that_are_mixed_and_do_not_fit_are_told_with_what_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = f"memory://{uuid.uuid4().hex}/clips"
    markers = write_many(folder, MIXED, 600_000_000)
    free = 1e12
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    # Two samples of each shard, in random order.
    count, advice = downloads(folder, markers, 1.3)
    assert count > len(markers)
    [line] = advice
    assert f"the {MIXED} shards that are mixed at a time take up to 9.6 GB" in line
    assert "1.3 GB of disk" in line and "pass --cache-gb 9.6, or" in line
    for enough in (9.6, None):
        count, advice = downloads(folder, markers, enough)
        assert advice == []
        assert count == len(markers)
    free = 9e9
    [line] = downloads(folder, markers, None)[1]
    assert "4.5 GB of disk" in line and "and more room in /" in line and "another TMPDIR" in line


def test_local_shards_need_no_room(tmp_path: Path) -> None:
    markers = [replace(m, bytes=10**12) for m in write_shards(str(tmp_path))]
    with closing(Loader(str(tmp_path), markers, "job", number, cache_gb=1e-9)) as loader:
        assert loader.advice() == []
