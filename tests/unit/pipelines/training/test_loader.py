"""The order of samples, and batches read from real shards."""

import itertools
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.io import storage
from pipelines.io.markers import Marker
from pipelines.training.loader import Loader
from tests.small_shards import KEYS, keys, number, write_shards
from vqvdm.errors import UserError


def make(folder: str | Path) -> Loader:
    return Loader(str(folder), write_shards(str(folder)), "shard_videos", number)


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


def test_the_first_samples_are_spread_over_shards_of_any_size(tmp_path: Path) -> None:
    """Their places come from sizes alone: there may be millions of samples."""
    sizes = [3, 1, 5, 2]
    markers = [Marker(f"train-{n:06d}", "", 0, [""] * k, [], "", "") for n, k in enumerate(sizes)]
    loader = Loader(str(tmp_path), markers, "job", number)
    places = [(shard, k) for shard, size in enumerate(sizes) for k in range(size)]
    asked: list[tuple[int, int]] = []
    loader._load = lambda places: asked.extend(places) or ([], {})  # type: ignore
    for count in (1, 2, 4, 11, 100):
        asked.clear()
        list(loader.first(count, 3))
        spread = np.unique(np.linspace(0, len(places) - 1, count).round().astype(int))
        assert sorted(asked) == [places[n] for n in spread]
    loader.close()
