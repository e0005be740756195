"""A full disk is one line: where, how much is left, how much is wanted, what to do."""

from __future__ import annotations

import errno
import os
import resource
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.io import room, storage
from pipelines.io.markers import read_marker
from pipelines.io.room import is_full, is_scratch_full
from pipelines.io.scratch import scratch
from pipelines.io.shards import ShardWriter
from tests.small_disk import resize, small_disk
from vqvdm.errors import UserError

HALF = os.urandom(500_000)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 1024) as place:
        yield place


@pytest.fixture
def full_scratch(disk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, on a small disk."""
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    return disk


def write_shard(folder: str) -> None:
    with ShardWriter(folder, "train-000000") as writer:
        for number in range(3):
            writer.add(f"key{number}", {"bin": HALF})
        writer.publish([], "spec", "made", {})


def test_a_full_root_is_told(disk: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(HALF * 3)
    root = disk / "root" / "clips"
    for publish in (
        lambda: storage.publish_file(tmp_path / "file", f"{root}/a"),
        lambda: storage.publish_bytes(HALF * 3, f"{root}/a"),
    ):
        with pytest.raises(UserError) as caught:
            publish()
        words = str(caught.value)
        assert f"no room in {root} on {socket.gethostname()}: 1.0 MB left, 1.5 MB wanted" in words
        assert "choose another --root; then run the same command again" in words
        assert "\n" not in words
        assert is_full(caught.value) and not is_scratch_full(caught.value)
        assert list(root.iterdir()) == []
    resize(disk, 4096)
    storage.publish_file(tmp_path / "file", f"{root}/a")
    assert (root / "a").read_bytes() == HALF * 3


def test_a_shard_that_does_not_fit_leaves_nothing(full_scratch: Path, tmp_path: Path) -> None:
    root = str(tmp_path / "clips")
    with pytest.raises(UserError, match=r"no room in .*TMPDIR.*--videos-per-shard") as caught:
        write_shard(root)
    assert str(full_scratch) in str(caught.value)
    assert is_scratch_full(caught.value)
    assert list(full_scratch.iterdir()) == []
    assert not Path(root).exists()
    # The samples fit, the tar beside them does not.
    resize(full_scratch, 2048)
    with pytest.raises(UserError, match=r"0\.0 MB left, 1\.5 MB wanted"):
        write_shard(root)
    assert list(full_scratch.iterdir()) == []
    resize(full_scratch, 8192)
    write_shard(root)
    marker = read_marker(root, "train-000000")
    assert marker and storage.sha256(f"{root}/train-000000.tar") == marker.sha256


def test_a_copy_that_does_not_fit_is_not_begun(full_scratch: Path, memory: str) -> None:
    storage.publish_bytes(HALF * 3, f"{memory}/video.mp4")
    storage.publish_bytes(HALF, f"{memory}/small.mp4")
    with pytest.raises(UserError, match=r"1\.5 MB wanted.*TMPDIR") as caught:
        storage.sha256(f"{memory}/video.mp4")
    assert is_scratch_full(caught.value)
    assert list(full_scratch.iterdir()) == []
    with storage.local_copy(f"{memory}/small.mp4") as copy:
        assert Path(copy).read_bytes() == HALF
    with pytest.raises(UserError, match=r"no room in .*TMPDIR"), storage.local_folder(memory):
        pass
    assert list(full_scratch.iterdir()) == []


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_is_larger_than_allowed_is_told(tmp_path: Path) -> None:
    """As on disks that take files of 4 GB at most."""
    with largest_file(100_000):
        with pytest.raises(UserError, match=r"0\.5 MB wanted \(File too large\).*--root"):
            storage.publish_bytes(HALF, f"{tmp_path}/root/file")
        with pytest.raises(UserError, match=r"File too large.*TMPDIR"):
            write_shard(str(tmp_path / "clips"))
    assert list((tmp_path / "root").iterdir()) == []


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="broken") as caught, scratch():
        raise OSError(errno.EIO, "broken")
    assert not is_full(caught.value)
    with pytest.raises(UserError, match=r"more wanted.*TMPDIR"), scratch():
        raise OSError(errno.EDQUOT, "Disk quota exceeded")


def test_amounts() -> None:
    assert [room.amount(size) for size in (0, 1_550_000, 2_000_000_000)] == [
        "0.0 MB", "1.6 MB", "2.0 GB"
    ]  # fmt: skip
