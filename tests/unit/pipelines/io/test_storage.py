"""Files are published completely or not at all, and errors contain a cure."""

import hashlib
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.io import checksums, disk, storage
from pipelines.io.connection import is_local
from vqvdm.errors import UserError


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
    (tmp_path / "source").write_bytes(b"afterwards")
    with pytest.raises(OSError, match="no space"):
        storage.publish_file(tmp_path / "source", str(target))
    assert everything(tmp_path) == [*(["place/file"] if there else []), "source"]
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


@pytest.mark.parametrize("name", ["../out", "deep/../../out", "/out", "..", ".", "", "a\0"])
def test_what_leads_out_of_a_folder_is_not_copied(memory: str, tmp_path: Path, name: str) -> None:
    for uri in (str(tmp_path / "from"), memory):
        storage.publish_bytes(b"", f"{uri}/file")
        with pytest.raises(UserError, match="no name of a file leads out of a folder"):
            storage.download_folder(uri, tmp_path / "to", [name])
    assert everything(tmp_path) == ["from/file"]


@pytest.mark.parametrize("name", ["file", "deep/file", "..file", "a..", "...", "~", "a b", "ünï"])
def test_odd_names_lead_nowhere_else(tmp_path: Path, name: str) -> None:
    storage.publish_bytes(b"", f"{tmp_path}/from/{name}")
    storage.download_folder(f"{tmp_path}/from", tmp_path / "to", [name])
    assert everything(tmp_path) == [f"from/{name}", f"to/{name}"]


def test_objects_whose_names_are_no_files_stay_where_they_are(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.publish_bytes(b"frame", f"{memory}/0.png")
    found = {name: (0, None) for name in ("..", ".", "0.png", "deep/1.png")}
    monkeypatch.setattr(storage, "written_below", lambda uri: found)
    with storage.local_folder(memory) as place:
        assert everything(Path(place)) == ["0.png"]


def test_what_walk_finds_lies_below_the_folder_as_it_was_named(memory: str) -> None:
    # Callers cut the folder off to get a path relative to it.
    storage.publish_bytes(b"", f"{memory}/clips/a")
    assert [file.uri for file in storage.walk(memory)] == [f"{memory}/clips/a"]


def test_a_slash_at_the_end_changes_nothing(tmp_path: Path, memory: str) -> None:
    """Names below a folder are told, and deleted, by what comes after it."""
    for root in (str(tmp_path), memory):
        for name in ("rain.json", "deep/rain.tar", "ain.json"):
            storage.publish_bytes(b"abc", f"{root}/clips/{name}")
        found = storage.written_below(f"{root}/clips/")
        assert found == storage.written_below(f"{root}/clips")
        assert found.keys() == {"rain.json", "deep/rain.tar", "ain.json"}
        storage.publish_bytes(b"abc", f"{root}/clips/mine.txt")
        made = re.compile(r"(deep/)?a?(r?ain)\.(json|tar)")
        kept = storage.keep_only(f"{root}/clips/", ["rain.json", "deep/rain.tar"], made)
        assert kept.keys() == {"rain.json", "deep/rain.tar"}
        left = {"rain.json", "deep/rain.tar", "mine.txt"}
        assert storage.written_below(f"{root}/clips").keys() == left
        with storage.local_folder(f"{root}/clips/") as place:
            assert Path(place, "rain.json").read_bytes() == b"abc"


def test_parts_that_a_killed_writer_left_are_discarded(tmp_path: Path) -> None:
    kept = ["clips/a.tar", "clips/.a.part.txt", ".videos.parquet.bak", "other/.b.tar.1f.part"]
    left = ["clips/.a.tar.0f3.part", "clips/deep/.c.1.part", ".videos.parquet.77.part"]
    for name in kept + left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    storage.discard_unfinished(f"{tmp_path}/clips")
    storage.discard_unfinished(f"{tmp_path}/videos.parquet")
    assert everything(tmp_path) == sorted(kept)


ODD_NAMES = {
    "run[1]": "run1",
    "a*": "ab",
    "b?": "bc",
    "c%20d": "c d",
    "e#f": "e",
    "g+h": "g h",
    "i j": "ij",
    "k\nl": "kl",
    "m::n": "m",
    "~o": "o",
    "ünï": "u",
}
"""Names, and a neighbour that each might be taken for."""


def check_literal(root: str, odd: str, neighbour: str) -> None:
    """Everything that storage does to `odd` leaves its neighbour as it is."""
    places = [storage.join(root, name, "deep", "file.bin") for name in (odd, neighbour)]
    for content, uri in zip((b"odd", b"neighbour"), places, strict=True):
        storage.publish_bytes(content, uri)
    assert [storage.read_bytes(uri) for uri in places] == [b"odd", b"neighbour"]
    assert sorted(places) == [file.uri for file in storage.walk(root)]
    found = storage.info(places[0])
    assert storage.exists(places[0]) and found is not None and found.size == 3
    assert storage.sha256(places[0]) == hashlib.sha256(b"odd").hexdigest()
    storage.publish_bytes(b"", storage.join(root, odd, "other"))
    storage.keep_only(storage.join(root, odd), ["deep/file.bin"], re.compile(".*"))
    assert sorted(places) == [file.uri for file in storage.walk(root)]
    storage.delete(storage.join(root, odd))
    assert [file.uri for file in storage.walk(root)] == [places[1]]
    storage.delete(places[1])
    assert storage.walk(root) == []


@pytest.mark.parametrize("odd", ODD_NAMES)
def test_names_are_literal(tmp_path: Path, memory: str, odd: str) -> None:
    check_literal(str(tmp_path / "root"), odd, ODD_NAMES[odd])
    check_literal(memory, odd.replace("::", ":"), ODD_NAMES[odd])


def test_a_link_is_deleted_and_not_what_it_leads_to(tmp_path: Path) -> None:
    target = tmp_path / "videos"
    storage.publish_bytes(b"x", str(target / "a.mp4"))
    (tmp_path / "link").symlink_to(target)
    storage.delete(str(tmp_path / "link"))
    assert not (tmp_path / "link").exists() and (target / "a.mp4").exists()


def test_the_first_of_two_links_by_name_is_entered(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    storage.publish_bytes(b"x", str(target / "a.mp4"))
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("zeta", "alpha", "mid"):
        (videos / name).symlink_to(target)
    assert [file.uri for file in storage.walk(str(videos))] == [f"{videos}/alpha/a.mp4"]


def test_when_a_file_was_written(tmp_path: Path) -> None:
    assert storage.written(f"{tmp_path}/none") is None
    for uri in (f"{tmp_path}/a", "memory://written/a"):
        storage.publish_bytes(b"abc", uri)
        first = storage.written(uri)
        storage.publish_bytes(b"abcd", uri)
        second = storage.written(uri)
        assert first and second
        assert (first[0], second[0]) == (3, 4)
        assert first[1] <= second[1]


def test_a_clock_that_was_centuries_ahead_tells_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    stat = os.stat(tmp_path / "file")
    fields = {name: getattr(stat, name) for name in dir(stat) if name.startswith("st_")}
    late = SimpleNamespace(**fields | {"st_mtime_ns": 2**63})
    monkeypatch.setattr(disk.os, "stat", lambda place: late)
    assert disk.info(str(tmp_path / "file")) == storage.FileInfo(str(tmp_path / "file"), 1)
