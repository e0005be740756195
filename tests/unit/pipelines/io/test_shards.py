"""Shards: the same bytes from the same samples, and a marker only for complete ones."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset as wds

from pipelines.io import shards, storage
from pipelines.io.markers import Marker, read_marker
from tests.small_shards import SAMPLES, write_shard
from vqvdm.errors import UserError


def test_insertion_order_has_no_effect(tmp_path: Path) -> None:
    assert write_shard(tmp_path / "a", list(SAMPLES)) == write_shard(
        tmp_path / "b", list(reversed(SAMPLES))
    )
    for name in ("train-000000.tar", "train-000000.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_members_are_sorted_and_have_no_time_stamp(tmp_path: Path) -> None:
    marker = write_shard(tmp_path, list(reversed(SAMPLES)))
    with tarfile.open(tmp_path / "train-000000.tar") as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == [f"{k}.{e}" for k in SAMPLES for e in ("json", "txt")]
    assert {m.mtime for m in members} == {0}
    assert marker.keys == list(SAMPLES)


def test_any_webdataset_reader_opens_it(tmp_path: Path) -> None:
    write_shard(tmp_path, list(SAMPLES))
    dataset = wds.WebDataset(str(tmp_path / "train-000000.tar"), shardshuffle=False)
    found = {s["__key__"]: {"txt": s["txt"], "json": s["json"]} for s in dataset}
    assert found == SAMPLES


def test_the_marker_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, places = os.replace, list[str]()

    def record(part: str, place: str) -> None:
        real(part, place)
        places.append(Path(place).name)

    monkeypatch.setattr(os, "replace", record)
    write_shard(tmp_path, list(SAMPLES))
    assert places == ["train-000000.tar", "train-000000.json"]


def test_no_marker_where_the_tar_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: str | Path, uri: str) -> None:
        raise OSError(f"cannot write {uri}")

    monkeypatch.setattr(storage, "publish_file", fail)
    with pytest.raises(OSError, match=r"train-000000\.tar"):
        write_shard(tmp_path, list(SAMPLES))
    assert list(tmp_path.iterdir()) == []
    assert read_marker(str(tmp_path), "train-000000") is None


def test_samples_come_back(tmp_path: Path) -> None:
    marker = write_shard(tmp_path, list(reversed(SAMPLES)))
    read = [(s.key, s.members) for s in shards.read_shard(str(tmp_path), marker, "shard_videos")]
    assert read == list(SAMPLES.items())


def test_a_truncated_tar_names_its_cure(tmp_path: Path) -> None:
    marker = write_shard(tmp_path, list(SAMPLES))
    tar = tmp_path / "train-000000.tar"
    tar.write_bytes(tar.read_bytes()[:2000])
    with pytest.raises(UserError) as caught:
        next(shards.read_shard(str(tmp_path), marker, "shard_videos"))
    assert str(tar) in str(caught.value) and "jobs/shard_videos.py" in str(caught.value)


def sparse_shard(folder: Path) -> Path:
    """A shard of some hundred bytes with a member that claims to be a terabyte of zeros."""
    member = tarfile.TarInfo("key.mp4")
    member.pax_headers = {
        "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "key.mp4",
        "GNU.sparse.size": str(2**40), "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,0",
    }  # fmt: skip
    path = folder / "train-000000.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member)
    with tarfile.open(path) as tar:
        (read,) = tar.getmembers()
        assert read.issparse() and read.size == 2**40
    return path


def linked_shard(folder: Path) -> Path:
    member = tarfile.TarInfo("key.mp4")
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    path = folder / "train-000000.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(member)
    return path


@pytest.mark.parametrize("made", [sparse_shard, linked_shard])
def test_a_shard_holds_plain_files_only(made: Callable[[Path], Path], tmp_path: Path) -> None:
    path = made(tmp_path)
    size = path.stat().st_size
    marker = Marker("train-000000", storage.sha256(str(path)), size, ["key"], [], "spec", "", {})
    with pytest.raises(UserError, match=r"is no shard \(key.mp4 is no plain file\): run jobs/x.py"):
        shards.open_verified(str(path), marker, str(path), "x")
    assert list(shards.peek(str(tmp_path), "train-000000", 2**20)) == []


@pytest.mark.parametrize("size", [1, 100, 1024, 5000, 2**20])
def test_a_peek_reaches_the_first_sample(size: int, tmp_path: Path) -> None:
    """However large it is; of those that fit, all are taken."""
    large = bytes(300_000)
    with shards.ShardWriter(str(tmp_path), "train-000000") as writer:
        for key in "ab":
            writer.add(key, {"json": b"{}" * 2000, "mkv": large})
        writer.publish([], "", "", {})
    found = list(shards.peek(str(tmp_path), "train-000000", size))
    assert [sample.key for sample in found] == (["a", "b"] if size == 2**20 else ["a"])
    assert found[0].members == {"json": b"{}" * 2000, "mkv": large}
    # Of one that is cut off there is no whole sample.
    tar = tmp_path / "train-000000.tar"
    tar.write_bytes(tar.read_bytes()[:200_000])
    assert list(shards.peek(str(tmp_path), "train-000000", size)) == []


def test_lost_shards_are_found_by_one_listing(tmp_path: Path) -> None:
    markers = []
    for name in ("train-000000", "train-000001"):
        with shards.ShardWriter(str(tmp_path), name) as writer:
            writer.add("a", {"txt": name.encode()})
            markers.append(writer.publish([], "", "", {}))
    shards.refuse_lost(str(tmp_path), markers, "shard_videos")
    tar = tmp_path / "train-000001.tar"
    tar.write_bytes(tar.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"000001\.tar does not match its marker: run jobs/shard_v"):
        shards.refuse_lost(str(tmp_path), markers, "shard_videos")
    tar.unlink()
    with pytest.raises(UserError, match=r"000001\.tar is missing: run jobs/shard_videos\.py again"):
        shards.refuse_lost(str(tmp_path), markers, "shard_videos")
