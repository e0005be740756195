"""Latents in memory: the batches of before, shared by the workers of a node."""

import io
import itertools
import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.io import storage
from pipelines.io.arrays import latent_arrays
from pipelines.io.markers import Marker
from pipelines.io.shards import ShardWriter
from pipelines.training import packed
from pipelines.training.loader import Loader
from pipelines.training.packed import PackedSamples
from vqvdm.errors import UserError

SHAPE = (3, 2, 4, 4)
CLASSES = "abcdefgh"
decode = partial(latent_arrays, classes=CLASSES)


def write_latents(folder: str, dtype: type, shards: int = 3, each: int = 5) -> list[Marker]:
    rng, markers = np.random.default_rng(0), []
    for shard in range(shards):
        with ShardWriter(folder, f"train-{shard:06d}") as writer:
            for k in range(each + shard):
                buffer = io.BytesIO()
                np.save(buffer, rng.standard_normal(SHAPE).astype(dtype))
                metadata = {"label": None if k == 0 else CLASSES[k], "fps": 29.97}
                members = {"npy": buffer.getvalue(), "json": json.dumps(metadata).encode()}
                writer.add(f"{shard}-{k}", members)
            markers.append(writer.publish([], "spec", "made", {}))
    return markers


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_batches_are_bit_for_bit_those_of_decoded_samples(tmp_path: Path, dtype: type) -> None:
    markers = write_latents(str(tmp_path), dtype)
    mapped = Loader(str(tmp_path), markers, "job", decode, memory_gb=1.0)
    decoded = Loader(str(tmp_path), markers, "job", decode)
    assert isinstance(mapped.cache, PackedSamples)
    assert not isinstance(decoded.cache, PackedSamples)
    for ours, theirs in itertools.islice(
        zip(mapped.train(3, 4, 7), decoded.train(3, 4, 7), strict=True), 12
    ):
        assert ours.keys == theirs.keys
        assert list(ours.tensors) == list(theirs.tensors)
        for name, tensor in theirs.tensors.items():
            assert tensor.dtype == ours.tensors[name].dtype != torch.float16
            assert ours.tensors[name].is_contiguous()
            assert torch.equal(ours.tensors[name], tensor)
    first = [loader.first(4, 2) for loader in (mapped, decoded)]
    for ours, theirs in zip(*first, strict=True):
        assert torch.equal(ours.tensors["latent"], theirs.tensors["latent"])


def test_half_precision_takes_its_own_room(tmp_path: Path) -> None:
    markers = write_latents(str(tmp_path), np.float16)
    loader = Loader(str(tmp_path), markers, "job", decode, memory_gb=1.0)
    next(loader.train(0, 0, 4))
    assert isinstance(loader.cache, PackedSamples)
    file = loader.cache.shards.folder / "train.npy"
    samples = sum(len(marker.keys) for marker in markers)
    assert file.stat().st_size < samples * (2 * np.prod(SHAPE) + 16) + 512
    # Less than the shards, by which it is decided whether they fit.
    assert file.stat().st_size < sum(marker.bytes for marker in markers)


def test_what_does_not_fit_is_read_as_before(tmp_path: Path) -> None:
    markers = write_latents(str(tmp_path), np.float16)
    needed_gb = sum(marker.bytes for marker in markers) / 1e9
    fits = [
        isinstance(
            Loader(str(tmp_path), markers, "job", decode, memory_gb=budget).cache,
            PackedSamples,
        )
        for budget in (0.0, 0.99 * needed_gb, 1.01 * needed_gb)
    ]
    assert fits == [False, False, True]


def test_latents_get_half_of_the_memory_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    markers = write_latents(str(tmp_path), np.float16)
    needed = sum(marker.bytes for marker in markers)
    monkeypatch.setattr(packed, "local_memory", lambda: memory)
    for share, fits in ((1.9, False), (2.1, True)):
        memory = share * needed
        loader = Loader(str(tmp_path), markers, "job", decode, memory_gb=None)
        assert isinstance(loader.cache, PackedSamples) == fits
        assert bool(loader.advice()) != fits
        loader.close()


def test_what_would_hold_the_latents_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By shards that claim a size."""
    markers = [replace(m, bytes=2_000_000_000) for m in write_latents(str(tmp_path), np.float16)]
    memory, free = 16e9, 100e9
    monkeypatch.setattr(packed, "local_memory", lambda: memory)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))

    def advice(memory_gb: float | None) -> str:
        loader = Loader(str(tmp_path), markers, "job", decode, memory_gb=memory_gb)
        loader.close()
        return " ".join(loader.advice())

    assert advice(None) == advice(0.0) == advice(6.0) == ""  # fits; not wanted; fits
    said = advice(5.0)
    assert "the latents take 6 GB" in said and "5.0 GB of memory are for them" in said
    assert "pass --memory-gb 6;" in said
    memory = 4e9
    assert "2.0 GB of memory" in advice(None) and "on nodes with as much" in advice(None)
    free = 11e9
    assert "less than twice the room" in advice(6.0) and "TMPDIR" in advice(6.0)


def test_a_disk_with_little_room_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    markers = write_latents(str(tmp_path), np.float16)
    needed = sum(marker.bytes for marker in markers)

    def packs(free: float) -> bool:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
        options: dict[str, Any] = {"memory_gb": 1.0, "name": "little"}
        loader = Loader(str(tmp_path), markers, "job", decode, **options)
        kept.append(loader)
        return isinstance(loader.cache, PackedSamples)

    kept: list[Loader] = []
    assert not packs(1.9 * needed)
    assert packs(2.1 * needed)
    next(kept[-1].train(0, 0, 4))
    assert packs(1.9 * needed)  # the space is reserved: workers that come later use the same file
    for loader in kept:
        loader.close()


def test_shards_are_needed_once(tmp_path: Path) -> None:
    markers = write_latents(str(tmp_path), np.float16)
    loader = Loader(str(tmp_path), markers, "job", decode, memory_gb=1.0)
    batches = loader.train(0, 0, 6)
    seen = list(itertools.islice(batches, 6))
    for marker in markers:
        storage.delete(f"{tmp_path}/{marker.name}.tar")
    assert len({key for batch in [*seen, *itertools.islice(batches, 6)] for key in batch.keys}) > 6


def test_a_damaged_shard_is_named_with_its_cure(tmp_path: Path) -> None:
    markers = write_latents(str(tmp_path), np.float16)
    (tmp_path / "train-000001.tar").write_bytes(b"damaged")
    loader = Loader(str(tmp_path), markers, "encode_latents", decode, memory_gb=1.0)
    with pytest.raises(UserError, match=r"train-000001\.tar.*encode_latents"):
        list(itertools.islice(loader.train(0, 0, 6), 6))


def test_a_shard_that_a_killed_worker_had_begun_is_decoded_again(tmp_path: Path) -> None:
    markers = write_latents(str(tmp_path), np.float16)
    loader = Loader(str(tmp_path), markers, "job", decode, memory_gb=1.0, name="half")
    cache = loader.cache
    assert isinstance(cache, PackedSamples)
    cache.take([(0, 0)])
    cache._rows[:] = np.zeros((), cache._rows.dtype)  # as before anything is written
    (cache.shards.folder / "train-000000.packed").unlink()
    other = Loader(str(tmp_path), markers, "job", decode, memory_gb=1.0, name="half")
    assert isinstance(other.cache, PackedSamples)
    assert other.cache.take([(0, 0)])["latent"].any()


def test_a_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    markers = write_latents(str(tmp_path), np.float16)
    loader = Loader(str(tmp_path), markers, "job", decode, memory_gb=1.0)
    with pytest.raises(UserError, match=r"No space left.*--memory-gb 0"):
        next(loader.train(0, 0, 6))
