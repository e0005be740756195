"""Shards: the same bytes from the same samples, and a marker only for what is whole."""

import tarfile
from pathlib import Path

import pytest
import webdataset as wds

from pipelines.io import shards, storage
from pipelines.io.shards import Marker, ShardWriter
from vqvdm.errors import UserError

SAMPLES = {f"key{i}": {"txt": b"%d" % i * 700, "json": b'{"n": %d}' % i} for i in range(5)}


def write(folder: Path, order: list[str], name: str = "train-000000", spec: str = "s") -> Marker:
    with ShardWriter(str(folder), name) as writer:
        for key in order:
            writer.add(key, SAMPLES[key])
        return writer.publish(["video"], spec, "plan", {"videos": []})


def test_insertion_order_leaves_no_trace(tmp_path: Path) -> None:
    assert write(tmp_path / "a", list(SAMPLES)) == write(tmp_path / "b", list(reversed(SAMPLES)))
    for name in ("train-000000.tar", "train-000000.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_members_are_sorted_and_carry_no_time(tmp_path: Path) -> None:
    marker = write(tmp_path, list(reversed(SAMPLES)))
    with tarfile.open(tmp_path / "train-000000.tar") as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == [f"{k}.{e}" for k in SAMPLES for e in ("json", "txt")]
    assert {m.mtime for m in members} == {0}
    assert marker.keys == list(SAMPLES)


def test_any_webdataset_reader_opens_it(tmp_path: Path) -> None:
    write(tmp_path, list(SAMPLES))
    dataset = wds.WebDataset(str(tmp_path / "train-000000.tar"), shardshuffle=False)
    found = {s["__key__"]: {"txt": s["txt"], "json": s["json"]} for s in dataset}
    assert found == SAMPLES


def test_the_marker_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, places = storage.publish_file, list[str]()

    def record(source: str | Path, uri: str) -> None:
        real(source, uri)
        places.append(Path(uri).name)

    monkeypatch.setattr(storage, "publish_file", record)
    write(tmp_path, list(SAMPLES))
    assert places == ["train-000000.tar", "train-000000.json"]


def test_no_marker_where_the_tar_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: str | Path, uri: str) -> None:
        raise OSError(f"cannot write {uri}")

    monkeypatch.setattr(storage, "publish_file", fail)
    with pytest.raises(OSError, match=r"train-000000\.tar"):
        write(tmp_path, list(SAMPLES))
    assert list(tmp_path.iterdir()) == []
    assert shards.read_marker(str(tmp_path), "train-000000") is None


def test_finished_means_intact_and_made_from_just_this(tmp_path: Path) -> None:
    folder, name = str(tmp_path), "train-000000"
    assert shards.finished(folder, name, "plan") is None
    marker = write(tmp_path, list(SAMPLES))
    assert shards.read_marker(folder, name) == marker
    assert shards.finished(folder, name, "plan") == marker
    assert shards.finished(folder, name, "another plan") is None
    tar = tmp_path / f"{name}.tar"
    tar.write_bytes(tar.read_bytes().replace(b"1", b"2", 1))
    assert shards.finished(folder, name, "plan") is None
    tar.unlink()
    assert not shards.is_intact(folder, marker)


def test_samples_come_back(tmp_path: Path) -> None:
    marker = write(tmp_path, list(reversed(SAMPLES)))
    read = [(s.key, s.members) for s in shards.read_shard(str(tmp_path), marker, "shard_videos")]
    assert read == list(SAMPLES.items())


def test_a_truncated_tar_names_its_cure(tmp_path: Path) -> None:
    marker = write(tmp_path, list(SAMPLES))
    tar = tmp_path / "train-000000.tar"
    tar.write_bytes(tar.read_bytes()[:2000])
    with pytest.raises(UserError) as caught:
        next(shards.read_shard(str(tmp_path), marker, "shard_videos"))
    assert str(tar) in str(caught.value) and "jobs/shard_videos.py" in str(caught.value)


def test_a_missing_marker_names_its_cure(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"val-000001\.tar.*jobs/encode_latents\.py"):
        shards.load_markers(str(tmp_path), {"shards": ["val-000001"]}, "encode_latents")


def test_shards_that_changed_under_their_index_name_their_cure(tmp_path: Path) -> None:
    markers = [write(tmp_path, list(SAMPLES)), write(tmp_path, ["key0"], "val-000000")]
    index = {
        "shards": [marker.name for marker in markers],
        "fingerprint": shards.content_fingerprint(markers),
    }
    assert shards.load_markers(str(tmp_path), index, "shard_videos") == markers
    write(tmp_path, ["key1"], "val-000000")
    with pytest.raises(UserError, match=r"half-way: run jobs/shard_videos\.py again"):
        shards.load_markers(str(tmp_path), index, "shard_videos")


@pytest.mark.parametrize("garbage", [b"", b'{"spec', b"\xff\xfe", b"{}", b"[1]"])
def test_a_garbled_marker_is_no_marker(tmp_path: Path, garbage: bytes) -> None:
    folder = str(tmp_path)
    write(tmp_path, list(SAMPLES))
    write(tmp_path, list(SAMPLES), "train-000001")
    (tmp_path / "train-000000.json").write_bytes(garbage)
    assert shards.read_marker(folder, "train-000000") is None
    assert shards.finished(folder, "train-000000", "plan") is None
    assert shards.filled_with(folder) == "s"
    (tmp_path / "index.json").write_bytes(garbage)
    assert shards.filled_with(folder) == "s"


def test_sweep_keeps_the_index_and_the_named(tmp_path: Path) -> None:
    for name in ("train-000000", "train-000001", "val-000000"):
        write(tmp_path, list(SAMPLES), name)
    storage.publish_json({}, f"{tmp_path}/index.json")
    (tmp_path / ".abc.part").write_bytes(b"half")
    shards.sweep(str(tmp_path), ["train-000000", "val-000000"])
    assert len(list(tmp_path.iterdir())) == 5
    left = {file.name.split(".")[0] for file in tmp_path.iterdir()}
    assert left == {"index", "train-000000", "val-000000"}


def test_filled_with_sees_unfinished_folders(tmp_path: Path) -> None:
    folder = str(tmp_path / "clips")
    assert shards.filled_with(folder) is None
    write(tmp_path / "clips", list(SAMPLES), spec="killed")
    assert shards.filled_with(folder) == "killed"
    storage.publish_json({"spec_hash": "whole"}, f"{folder}/index.json")
    assert shards.filled_with(folder) == "whole"
