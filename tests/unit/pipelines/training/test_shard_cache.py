"""Cached shards: within their limit, fetched before they are needed, verified."""

import itertools
import uuid
from pathlib import Path

import pytest

from pipelines.io import storage
from pipelines.training.loader import Loader
from tests.small_shards import KEYS, number, write_shards


@pytest.mark.parametrize("remote", [False, True])
def test_cached_shards_stay_within_their_limit(tmp_path: Path, remote: bool) -> None:
    folder = f"memory://{uuid.uuid4().hex}/clips" if remote else str(tmp_path)
    markers = write_shards(folder)
    largest = max(marker.bytes for marker in markers)
    loader = Loader(folder, markers, "job", number, cache_gb=1.5 * largest / 1e9)
    for batch in itertools.islice(loader.train(0, 0, 3), 30):
        assert batch.tensors["number"].tolist() == [KEYS.index(key) for key in batch.keys]
        # Shards being fetched and the one in use may exceed it.
        assert loader.cache.held_bytes <= loader.cache.limit_bytes + 2 * largest
    copies = list(Path(loader.cache._temporary.name).iterdir())
    assert len(copies) <= (2 if remote else 0)


def test_the_next_shards_are_fetched_before_they_are_needed() -> None:
    folder = f"memory://{uuid.uuid4().hex}/clips"
    loader = Loader(folder, write_shards(folder), "job", number)
    loader.cache.expect([0, 2])
    for waiting in loader.cache._open_shards.values():
        waiting.result(10)
    for name in ("train-000000.tar", "train-000002.tar"):
        storage.delete(storage.join(folder, name))
    assert loader.cache.read(2, "c0")["txt"] == b"4"
    assert loader.cache.read(0, "a0")["txt"] == b"0"
