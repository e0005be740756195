"""Files are published completely or not at all, and errors contain a cure."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from pipelines.io import checksums, storage
from pipelines.io.connection import is_local


@pytest.fixture
def memory() -> Iterator[str]:
    """A folder on a file system that is not local."""
    yield "memory://house"
    files = fsspec.filesystem("memory")
    if files.exists("/house"):
        files.rm("/house", recursive=True)


def everything(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_join_and_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.join("s3://bucket/a/", "b", "c") == "s3://bucket/a/b/c"
    assert storage.absolute("runs/") == str(tmp_path / "runs")
    assert storage.absolute(f"file://{tmp_path}") == str(tmp_path)
    assert storage.absolute("s3://bucket/a/") == "s3://bucket/a"
    assert is_local("runs") and not is_local("s3://bucket")


def test_publish_makes_folders_and_leaves_nothing_beside(tmp_path: Path) -> None:
    storage.publish_bytes(b"abc", f"{tmp_path}/a/b/file")
    assert everything(tmp_path) == ["a/b/file"]
    assert storage.read_bytes(f"{tmp_path}/a/b/file") == b"abc"


@pytest.mark.parametrize("there", [None, b"before"])
def test_a_broken_copy_is_never_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bytes | None
) -> None:
    target = tmp_path / "place" / "file"
    if there:
        storage.publish_bytes(there, str(target))

    def half(source: str | Path, beside: str) -> None:
        data = Path(source).read_bytes()
        Path(beside).write_bytes(data[: len(data) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(shutil, "copyfile", half)
    with pytest.raises(OSError, match="no space"):
        storage.publish_bytes(b"afterwards", str(target))
    assert everything(tmp_path) == (["place/file"] if there else [])
    assert not there or target.read_bytes() == there


def test_walk_is_sorted(tmp_path: Path) -> None:
    names = ["B", "a", "b/a", "b/z", "c/d/e"]
    for name in reversed(names):
        storage.publish_bytes(name.encode(), f"{tmp_path}/{name}")
    found = storage.walk(str(tmp_path))
    assert [file.uri for file in found] == [f"{tmp_path}/{n}" for n in names]
    assert [file.size for file in found] == [1, 1, 3, 3, 5]
    assert all(file.mtime_ns for file in found)
    assert storage.walk(f"{tmp_path}/none") == []


def test_round_trip_elsewhere(memory: str, tmp_path: Path) -> None:
    assert storage.walk(memory) == []
    storage.publish_json({"b": [1, None], "a": "é"}, f"{memory}/deep/index.json")
    assert storage.read_json(f"{memory}/deep/index.json") == {"a": "é", "b": [1, None]}
    with storage.local_copy(f"{memory}/deep/index.json") as path:
        assert Path(path).read_bytes() == checksums.json_bytes({"a": "é", "b": [1, None]})
        assert storage.sha256(path) == storage.sha256(f"{memory}/deep/index.json")
    assert not Path(path).exists()
    storage.download_folder(memory, tmp_path, ["deep/index.json"])
    assert everything(tmp_path) == ["deep/index.json"]
    storage.delete(memory)
    assert not storage.exists(f"{memory}/deep/index.json")


def test_what_walk_finds_lies_below_the_folder_as_it_was_named(memory: str) -> None:
    # Callers cut the folder off to get a path relative to it.
    storage.publish_bytes(b"", f"{memory}/clips/a")
    assert [file.uri for file in storage.walk(memory)] == [f"{memory}/clips/a"]


def test_parts_that_a_killed_writer_left_are_discarded(tmp_path: Path) -> None:
    kept = ["clips/a.tar", "clips/.a.part.txt", ".videos.parquet.bak", "other/.b.tar.1f.part"]
    left = ["clips/.a.tar.0f3.part", "clips/deep/.c.1.part", ".videos.parquet.77.part"]
    for name in kept + left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    storage.discard_unfinished(f"{tmp_path}/clips")
    storage.discard_unfinished(f"{tmp_path}/videos.parquet")
    assert everything(tmp_path) == sorted(kept)
