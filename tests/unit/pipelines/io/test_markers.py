"""Markers: only an intact shard of the same inputs counts as finished."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.io import storage
from pipelines.io.markers import (
    SHARD_FILES,
    clear,
    content_fingerprint,
    files_of,
    filled_with,
    finished,
    is_intact,
    load_markers,
    names_in,
    read_marker,
    span_shard_name,
    to_be_cleared,
    untouched,
)
from tests.small_shards import SAMPLES, write_shard
from vqvdm.errors import UserError


def test_finished_means_intact_and_of_the_same_inputs(tmp_path: Path) -> None:
    folder, name = str(tmp_path), "train-000000"
    assert finished(folder, name, "plan") is None
    marker = write_shard(tmp_path, list(SAMPLES))
    assert read_marker(folder, name) == marker
    assert finished(folder, name, "plan") == marker
    assert finished(folder, name, "another plan") is None
    tar = tmp_path / f"{name}.tar"
    tar.write_bytes(tar.read_bytes().replace(b"1", b"2", 1))
    assert finished(folder, name, "plan") is None
    tar.unlink()
    assert not is_intact(folder, marker)


@pytest.mark.parametrize("verify", [False, True])
def test_a_shard_that_changed_is_not_finished(tmp_path: Path, verify: bool) -> None:
    folder, name = str(tmp_path), "train-000000"
    marker = write_shard(tmp_path, list(SAMPLES))
    tar, bytes_ = tmp_path / f"{name}.tar", (tmp_path / f"{name}.tar").read_bytes()
    assert finished(folder, name, "plan", verify) == marker
    tar.write_bytes(bytes_.replace(b"1", b"2", 1))  # of the same size, but written later
    assert finished(folder, name, "plan", verify) is None
    tar.write_bytes(bytes_)  # written later, but the same
    assert finished(folder, name, "plan", verify) == marker
    tar.write_bytes(bytes_[:-1])
    os.utime(tar, (0, 0))
    assert finished(folder, name, "plan", verify) is None
    tar.unlink()
    assert finished(folder, name, "plan", verify) is None


def test_an_untouched_shard_is_read_only_to_verify_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = write_shard(tmp_path, list(SAMPLES))
    monkeypatch.setattr(storage, "sha256", lambda uri: pytest.fail(f"reads {uri}"))
    assert finished(str(tmp_path), marker.name, "plan", verify=False) == marker
    with pytest.raises(pytest.fail.Exception, match="reads"):
        finished(str(tmp_path), marker.name, "plan", verify=True)


def test_a_missing_marker_names_its_cure(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"val-000001\.tar.*jobs/encode_latents\.py"):
        load_markers(str(tmp_path), {"shards": ["val-000001"]}, "encode_latents")


def test_shards_that_changed_under_their_index_name_their_cure(tmp_path: Path) -> None:
    markers = [write_shard(tmp_path, list(SAMPLES)), write_shard(tmp_path, ["key0"], "val-000000")]
    index = {
        "shards": [marker.name for marker in markers],
        "fingerprint": content_fingerprint(markers),
    }
    assert load_markers(str(tmp_path), index, "shard_videos") == markers
    assert all(marker.details for marker in markers)
    bare = load_markers(str(tmp_path), index, "shard_videos", details=False)
    assert bare == [replace(marker, details={}) for marker in markers]
    write_shard(tmp_path, ["key1"], "val-000000")
    with pytest.raises(UserError, match=r"half-way: run jobs/shard_videos\.py again"):
        load_markers(str(tmp_path), index, "shard_videos")


@pytest.mark.parametrize("garbage", [b"", b'{"spec', b"\xff\xfe", b"{}", b"[1]"])
def test_an_invalid_marker_counts_as_missing(tmp_path: Path, garbage: bytes) -> None:
    folder = str(tmp_path)
    write_shard(tmp_path, list(SAMPLES))
    write_shard(tmp_path, list(SAMPLES), "train-000001")
    (tmp_path / "train-000000.json").write_bytes(garbage)
    assert read_marker(folder, "train-000000") is None
    assert finished(folder, "train-000000", "plan") is None
    assert filled_with(folder) == "s"
    (tmp_path / "index.json").write_bytes(garbage)
    assert filled_with(folder) == "s"


@pytest.mark.parametrize("name", ["train-000001", "val-000000", "../other/train-000000"])
def test_the_marker_of_another_shard_counts_as_missing(tmp_path: Path, name: str) -> None:
    """Its name would be that of a file that is read, or written on a node."""
    write_shard(tmp_path, list(SAMPLES))
    place = tmp_path / "train-000000.json"
    place.write_bytes(json.dumps(json.loads(place.read_bytes()) | {"name": name}).encode())
    assert read_marker(str(tmp_path), "train-000000") is None
    assert list(untouched(str(tmp_path), ["train-000000"])) == [None]
    with pytest.raises(UserError, match=r"train-000000\.tar has no marker: run jobs/encode_lat"):
        load_markers(str(tmp_path), {"shards": ["train-000000"]}, "encode_latents")


@pytest.mark.parametrize("name", ["../clips/train-000000", "train-0", "test-000000", "index", ""])
def test_an_index_that_names_something_else_is_told(tmp_path: Path, name: str) -> None:
    write_shard(tmp_path / "clips", list(SAMPLES))
    index = {"shards": ["train-000000", name]}
    told = rf"other/index\.json lists {re.escape(repr(name))}, .* run jobs/shard_videos\.py again"
    for read in (load_markers, names_in):
        with pytest.raises(UserError, match=told):
            read(f"{tmp_path}/other", index, "shard_videos")
    names = ["train-000000", "val-1000000", "train-0123456789abcdef"]
    assert names_in("clips", {"shards": names}, "shard_videos") == names


def test_the_index_and_the_named_are_kept(tmp_path: Path) -> None:
    for name in ("train-000000", "train-000001", "val-000000", span_shard_name("train", 77)):
        write_shard(tmp_path, list(SAMPLES), name)
    storage.publish_json({}, f"{tmp_path}/index.json")
    (tmp_path / ".abc.part").write_bytes(b"half")
    for name in ("train-1.tar", "train-000001.mp4", "cat/a.mp4"):
        storage.publish_bytes(b"somebody else's", f"{tmp_path}/{name}")
    storage.keep_only(str(tmp_path), files_of(["train-000000", "val-000000"]), SHARD_FILES)
    left = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    shards = {
        f"{name}.{kind}" for name in ("train-000000", "val-000000") for kind in ("json", "tar")
    }
    assert left == {"index.json", *shards, "train-1.tar", "train-000001.mp4", "cat/a.mp4"}


def test_filled_with_reads_unfinished_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One with an index is not listed."""
    folder = str(tmp_path / "clips")
    assert filled_with(folder) is None
    write_shard(tmp_path / "clips", list(SAMPLES), spec="killed")
    assert filled_with(folder) == "killed"
    storage.publish_json({"spec_hash": "whole"}, f"{folder}/index.json")
    monkeypatch.setattr(storage, "written_below", lambda uri: pytest.fail(f"lists {uri}"))
    assert filled_with(folder) == "whole"


def test_untouched_shards_are_known_by_one_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"train-{number:06d}" for number in range(6)]
    markers = [write_shard(tmp_path, list(SAMPLES), name) for name in names]
    asked: list[str] = []
    written = storage.written
    monkeypatch.setattr(storage, "written", lambda uri: asked.append(uri) or written(uri))
    monkeypatch.setattr(storage, "sha256", lambda uri: pytest.fail(f"reads {uri}"))
    assert list(untouched(str(tmp_path), [*names, "val-000000"])) == [*markers, None]
    assert asked == []
    tar = tmp_path / f"{names[1]}.tar"
    tar.write_bytes(tar.read_bytes())  # The same, but written later.
    os.utime(tmp_path / f"{names[1]}.json", (0, 0))
    (tmp_path / f"{names[2]}.tar").write_bytes(b"shorter")
    os.utime(tmp_path / f"{names[2]}.tar", (0, 0))
    (tmp_path / f"{names[3]}.tar").unlink()
    (tmp_path / f"{names[4]}.json").write_bytes(b"{}")
    kept = [markers[0], None, None, None, None, markers[5]]
    assert list(untouched(str(tmp_path), names)) == kept


def test_a_store_whose_listing_has_no_times_is_asked_for_each_shard(
    tmp_path: Path, memory: str
) -> None:
    marker = write_shard(tmp_path, list(SAMPLES))
    for kind in ("tar", "json"):
        name = f"{marker.name}.{kind}"
        storage.publish_file(tmp_path / name, f"{memory}/clips/{name}")
    assert {time for _, time in storage.written_below(f"{memory}/clips").values()} == {None}
    found = list(untouched(f"{memory}/clips", [marker.name, "val-000000"]))
    assert found == [marker, None]


def test_what_a_killed_job_made_is_not_cleared(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert not to_be_cleared(folder, None) and not to_be_cleared(folder, "spec")
    spec = write_shard(tmp_path, list(SAMPLES)).spec_hash
    assert not to_be_cleared(folder, spec)
    assert to_be_cleared(folder, "other") and to_be_cleared(folder, None)
    storage.publish_json({"spec_hash": spec}, f"{folder}/index.json")
    assert to_be_cleared(folder, spec)


def test_a_job_that_is_killed_while_it_clears_does_so_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would take what is left for its own."""
    folder, left = str(tmp_path), list[str]()
    spec = write_shard(tmp_path, list(SAMPLES)).spec_hash
    storage.publish_json({"spec_hash": spec}, f"{folder}/index.json")
    delete = storage.delete

    def deleting(uri: str) -> None:
        left.extend(path.name for path in tmp_path.iterdir())
        assert to_be_cleared(folder, spec)
        delete(uri)

    monkeypatch.setattr(storage, "delete", deleting)
    clear(folder, [], SHARD_FILES)
    assert left == ["index.json"] and not list(tmp_path.iterdir())
