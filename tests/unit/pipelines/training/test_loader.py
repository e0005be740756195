"""The order of samples, and batches read from real shards."""

import io
import itertools
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.io import storage
from pipelines.io.shards import Marker, ShardWriter
from pipelines.io.video import encode_lossless
from pipelines.training.loader import Batch, Loader, SampleOrder, clip_arrays, latent_arrays
from vqvdm.errors import UserError

KEYS = ["a0", "a1", "a2", "b0", "c0", "c1", "c2"]


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


def make(folder: str | Path) -> Loader:
    return Loader(str(folder), write_shards(str(folder)), "shard_videos", number)


def keys(batches: Iterator[Batch], count: int) -> list[list[str]]:
    return [batch.keys for batch in itertools.islice(batches, count)]


def samples(order: SampleOrder, epoch: int) -> list[tuple[int, int]]:
    return [order.at(epoch * order.length + offset) for offset in range(order.length)]


def test_every_sample_comes_once_an_epoch() -> None:
    sizes = [3, 0, 1, 5]
    everything = [(shard, k) for shard, size in enumerate(sizes) for k in range(size)]
    order = SampleOrder(sizes, seed=3)
    assert all(sorted(samples(order, epoch)) == everything for epoch in range(4))
    assert samples(order, 0) != samples(order, 1)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    walked = SampleOrder([4, 4, 4], seed=1)
    epochs = [samples(walked, epoch) for epoch in range(3)]
    assert samples(SampleOrder([4, 4, 4], seed=1), 2) == epochs[2]  # without the epochs before
    assert samples(walked, 0) == epochs[0]  # and back again
    assert samples(SampleOrder([4, 4, 4], seed=2), 0) != epochs[0]


def test_few_shards_are_mixed_at_a_time() -> None:
    first = samples(SampleOrder([4] * 6, seed=0, mixed=2), 0)
    for start in range(0, 24, 8):
        assert len({shard for shard, _ in first[start : start + 8]}) == 2


def test_a_negative_seed_orders_samples_too() -> None:
    assert sorted(samples(SampleOrder([2, 1], seed=-1), 0)) == [(0, 0), (0, 1), (1, 0)]


def test_batches_cross_the_end_of_an_epoch(tmp_path: Path) -> None:
    batches = make(tmp_path).train(seed=0, position=0, batch_size=2)
    seen = []
    for batch in itertools.islice(batches, 7):
        assert batch.tensors["number"].tolist() == [KEYS.index(key) for key in batch.keys]
        seen += batch.keys
    assert sorted(seen[:7]) == sorted(seen[7:]) == KEYS
    assert seen[:7] != seen[7:]


def test_two_workers_share_the_batch_of_one(tmp_path: Path) -> None:
    loader = make(tmp_path)
    whole = keys(loader.train(5, 0, 4), 5)
    shares = [keys(loader.train(5, 0, 4, rank, world=2), 5) for rank in range(2)]
    assert whole == [first + second for first, second in zip(*shares, strict=True)]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_position_continues_where_it_was_left(tmp_path: Path, steps: int) -> None:
    loader = make(tmp_path)
    whole = keys(loader.train(0, 0, 3), 6)
    assert keys(loader.train(0, 3 * steps, 3), 6 - steps) == whole[steps:]


def test_shards_of_a_position_and_the_next_ones_are_known() -> None:
    order = SampleOrder([3, 1, 2, 4, 2], seed=4, mixed=2)
    for position in range(3 * order.length):
        shard, _ = order.at(position)
        known = order.shards_from(position)
        assert shard in known[:2]
        coming = [order.at(p)[0] for p in range(position, position + 40)]
        others = [s for s in dict.fromkeys(coming) if s not in known[:2]]
        if len(known) > 2 and others and order.group_at(position)[1] < 2:
            assert others[0] in known[2:]


def test_the_order_in_memory_is_that_of_mixed_shards_only() -> None:
    order = SampleOrder([100] * 1000, seed=0, mixed=4)
    seen = {order.at(position) for position in range(50_000, 50_400)}
    assert len(seen) == 400
    assert order._samples.nbytes == 400 * 16


@pytest.mark.parametrize("remote", [False, True])
def test_shards_at_hand_stay_within_their_limit(tmp_path: Path, remote: bool) -> None:
    folder = f"memory://{uuid.uuid4().hex}/clips" if remote else str(tmp_path)
    markers = write_shards(folder)
    largest = max(marker.bytes for marker in markers)
    loader = Loader(folder, markers, "job", number, cache_gb=1.5 * largest / 1e9)
    for batch in itertools.islice(loader.train(0, 0, 3), 30):
        assert batch.tensors["number"].tolist() == [KEYS.index(key) for key in batch.keys]
        # Those on their way and the one in use may come on top.
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


def test_pinned_batches_are_copied_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned, copied = [], []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: (pinned.append(self), self)[1])
    monkeypatch.setattr(
        Tensor, "to", lambda self, device, non_blocking: (copied.append(non_blocking), self)[1]
    )

    def decode(members: dict[str, bytes]) -> dict[str, np.ndarray]:
        return {"number": np.array(int(members["txt"]))}

    loader = Loader(str(tmp_path), write_shards(str(tmp_path)), "job", decode, pinned=True)
    batch = next(loader.train(0, 0, 4)).to(torch.device("cuda"))
    assert len(pinned) == 1
    assert pinned[0] is batch.tensors["number"]
    assert copied == [True]


def test_a_truncated_shard_is_named_with_its_cure(tmp_path: Path) -> None:
    loader = make(tmp_path)
    tar = tmp_path / "train-000002.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(UserError, match=r"train-000002\.tar.*shard_videos"):
        keys(loader.train(0, 0, 7), 1)


def test_remote_shards_are_read_and_a_missing_one_is_named() -> None:
    folder = f"memory://{uuid.uuid4().hex}/clips"
    loader = make(folder)
    assert sorted(next(loader.train(0, 0, 7)).keys) == KEYS
    storage.delete(storage.join(folder, "train-000001.tar"))
    again = Loader(folder, loader.markers, "shard_videos", number)
    with pytest.raises(UserError, match=r"train-000001\.tar.*shard_videos"):
        next(again.train(0, 0, 7))


def test_first_is_spread_evenly_and_always_the_same(tmp_path: Path) -> None:
    loader = make(tmp_path)
    chosen = [batch.keys for batch in loader.first(3, 2)]
    assert chosen == [["a0", "b0"], ["c2"]]
    assert [batch.keys for batch in loader.first(3, 2)] == chosen
    assert list(itertools.chain(*(b.keys for b in loader.first(100, 4)))) == KEYS


def test_members_become_arrays() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    buffer = io.BytesIO()
    np.save(buffer, np.full((3, 1, 2, 2), 0.5, np.float16))
    about = json.dumps({"class_index": None, "fps": 8}).encode()
    clip = clip_arrays({"mp4": encode_lossless(frames, 8), "json": about})
    assert np.array_equal(clip["video"], frames)
    assert (clip["class_index"].item(), clip["fps"].item()) == (-1, 8.0)
    latent = latent_arrays({"npy": buffer.getvalue(), "json": about})
    assert np.array_equal(latent["latent"], np.full((3, 1, 2, 2), 0.5, np.float32))
