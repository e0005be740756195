"""The account of videos: labels, splits and shards that stay put when videos come and go."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.io import manifest
from pipelines.io.manifest import Account, Source
from vqvdm.errors import UserError


def fill(folder: Path, *paths: str) -> str:
    """Empty files: a plan is made from the listing alone."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return str(folder)


def labels_of(videos: str, labels: str) -> dict[str, str | None]:
    return {s.path: s.label for s in manifest.list_sources(videos, labels, 0.0, None)}


def listed(videos: Path, text: str) -> list[str]:
    """The videos kept for validation by a --val-list of this text."""
    (videos / "val.txt").write_text(text)
    found = manifest.list_sources(str(videos), "none", 0.5, f"{videos}/val.txt")
    return [s.path for s in found if s.split == "val"]


def source(index: int, split: str = "train") -> Source:
    path = f"class/{index:03d}.mp4"
    return Source(path, f"s3://bucket/{path}", index, str(index), None, "class", split)


def test_the_folder_is_the_label(tmp_path: Path) -> None:
    videos = fill(tmp_path / "tree", "b/1.mp4", "a/deep/2.AVI", "a/notes.txt")
    assert labels_of(videos, "folder") == {"a/deep/2.AVI": "a", "b/1.mp4": "b"}
    assert labels_of(videos, "none") == {"a/deep/2.AVI": None, "b/1.mp4": None}
    flat = fill(tmp_path / "flat", "1.mp4", "2.webm")
    assert labels_of(flat, "folder") == {"1.mp4": None, "2.webm": None}


def test_no_videos_and_stray_videos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--videos"):
        labels_of(fill(tmp_path, "readme.txt"), "folder")
    with pytest.raises(UserError, match=r"stray\.mp4.*--labels none"):
        labels_of(fill(tmp_path, "a/1.mp4", "stray.mp4"), "folder")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_labels_from_a_table(tmp_path: Path, suffix: str) -> None:
    videos = fill(tmp_path / "videos", "a.mp4", "deep/b.mp4", "unlisted.mp4")
    file = tmp_path / f"labels.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"path": ["a.mp4", "deep/b.mp4"], "label": [7, 8]}), file)
    else:
        csv = "label,path,other\n7,a.mp4,1\n8,deep/b.mp4,2\n"
        jsonl = '{"path": "a.mp4", "label": 7}\n{"path": "deep/b.mp4", "label": 8}\n'
        file.write_text(csv if suffix == "csv" else jsonl)
    assert labels_of(videos, str(file)) == {"a.mp4": "7", "deep/b.mp4": "8"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.csv", "", "no such file"),
        ("labels.txt", "a.mp4 x", r"\.csv, \.jsonl, \.parquet"),
        ("labels.csv", "file,label\na.mp4,x\n", "columns path and label"),
        ("labels.csv", "path,label\nother.mp4,x\n", "names none of the videos"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    videos = fill(tmp_path / "videos", "a.mp4")
    if text:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        labels_of(videos, str(tmp_path / name))


def test_the_split_stays_when_a_video_is_added(tmp_path: Path) -> None:
    videos = fill(tmp_path, *(f"{index}.mp4" for index in range(300)))
    before = {s.path: s.split for s in manifest.list_sources(videos, "none", 0.2, None)}
    fill(tmp_path, "another.mp4")
    after = {s.path: s.split for s in manifest.list_sources(videos, "none", 0.2, None)}
    assert before == {path: after[path] for path in before} and len(after) == 301
    assert 30 < list(before.values()).count("val") < 90


@pytest.mark.parametrize(
    ("count", "share", "val"), [(2, 1e-9, 1), (9, 0.0, 0), (1, 0.9, 0), (2, 0.9, 1)]
)
def test_both_splits_get_a_video(tmp_path: Path, count: int, share: float, val: int) -> None:
    videos = fill(tmp_path, *(f"{index}.mp4" for index in range(count)))
    splits = [s.split for s in manifest.list_sources(videos, "none", share, None)]
    assert splits.count("val") == val


def test_the_split_from_a_list(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.mp4", "a/2.mp4")
    # The lists of UCF-101 have the class after the path.
    assert listed(tmp_path, "a/2.mp4 1\n\n") == ["a/2.mp4"]
    with pytest.raises(UserError, match=r"c/unknown\.mp4"):
        listed(tmp_path, "a/2.mp4\nc/unknown.mp4\n")


def test_a_listed_path_may_hold_spaces(tmp_path: Path) -> None:
    fill(tmp_path, "b/my.mp4", "b/my cat.mp4")
    assert listed(tmp_path, "b/my cat.mp4\n") == ["b/my cat.mp4"]


def test_a_missing_list_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "a.mp4")
    with pytest.raises(UserError, match="--val-list"):
        manifest.list_sources(str(tmp_path), "none", 0.1, f"{tmp_path}/none.txt")


def test_the_manifest_comes_back(tmp_path: Path) -> None:
    ok = Account("ok", None, 3, 2.5, 16.0, 64, 48, "h264")
    accounts = [(source(2), Account("rejected", "unreadable", 0)), (source(1, "val"), ok)]
    manifest.publish(f"{tmp_path}/videos.parquet", accounts)
    table = manifest.read(f"{tmp_path}/videos.parquet")
    assert table.schema.equals(manifest.SCHEMA)
    first, second = table.to_pylist()
    assert (first["uri"], first["split"], first["fps"]) == (source(1).uri, "val", 16.0)
    assert (second["id"], second["etag"], second["reason"]) == (source(2).id, "2", "unreadable")
    assert manifest.from_marker(manifest.to_marker(accounts)) == accounts
