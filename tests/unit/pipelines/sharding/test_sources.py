"""Listing videos: labels and splits from the folders, lists and tables that people have."""

import os
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sharding import manifest
from pipelines.sharding import sources as inputs
from pipelines.sharding.inputs.kind import FEW
from pipelines.sharding.settings import Selection, ShardVideos
from pipelines.sharding.source_table import SourceTable
from pipelines.sharding.splits import split_sources
from tests.input_folders import GROUPS, fill, found, ucf
from tests.video_tars import member, tar
from vqvdm.errors import UserError


def labels_of(videos: str, labels: str) -> dict[str, str | None]:
    return {path: s.label for path, s in found(videos, labels=labels, val_fraction=0.0).items()}


@pytest.mark.parametrize("place", ["{}/", ""])
def test_ucf101_as_published(place: str, tmp_path: Path) -> None:
    val_list = place.format(tmp_path) + "ucfTrainTestlist/testlist01.txt"
    sources = found(ucf(tmp_path), val_list=val_list, group_by=GROUPS)
    assert len(sources) == 18
    assert {s.label for s in sources.values()} == {"ApplyEyeMakeup", "HandstandPushups"}
    assert all((s.split == "val") == ("_g07_" in path) for path, s in sources.items())


def sky(folder: Path) -> str:
    """Sky Time-lapse as published: a folder a video, in it one a clip, in that its frames."""
    for split, video, clip in (
        ("sky_train", "07U1fSrk9oI", "07U1fSrk9oI_1"),
        ("sky_train", "07U1fSrk9oI", "07U1fSrk9oI_2"),
        ("sky_test", "Qv-eoBhQSRw", "Qv-eoBhQSRw_1"),
    ):
        names = [f"{split}/{video}/{clip}/{video}_frames_{n:08d}.jpg" for n in range(1, 4)]
        fill(folder, *names)
    return str(folder)


def test_sky_timelapse_as_published(tmp_path: Path) -> None:
    videos = sky(tmp_path)
    sources = found(videos, labels="none", splits="folders", frames_fps=25.0)
    assert {path: s.split for path, s in sources.items()} == {
        "sky_train/07U1fSrk9oI/07U1fSrk9oI_1": "train",
        "sky_train/07U1fSrk9oI/07U1fSrk9oI_2": "train",
        "sky_test/Qv-eoBhQSRw/Qv-eoBhQSRw_1": "val",
    }
    assert {s.frames_fps for s in sources.values()} == {25.0}
    with pytest.raises(UserError, match="--frames-fps 25"):
        found(videos, labels="none")


def test_a_folder_of_images_changes_with_any_of_them(tmp_path: Path) -> None:
    videos, clip = sky(tmp_path), "sky_train/07U1fSrk9oI/07U1fSrk9oI_1"
    before = found(videos, labels="none", frames_fps=25.0)
    (tmp_path / clip / "07U1fSrk9oI_frames_00000002.jpg").write_bytes(b"changed")
    after = found(videos, labels="none", frames_fps=25.0)
    assert [path for path in before if before[path] != after[path]] == [clip]


@pytest.mark.parametrize("stray", ["stray.tar", "sky_train/stray.parquet"])
def test_a_stray_tar_makes_no_tars_of_folders_of_images(stray: str, tmp_path: Path) -> None:
    videos = sky(tmp_path)
    fill(tmp_path, stray)
    assert len(found(videos, labels="none", splits="folders", frames_fps=25.0)) == 3


def test_all_names_are_taken(tmp_path: Path) -> None:
    paths = ["a/1.mp4", "b/1.mp4", "a/x/1.mp4", "a/b.c..d.MP4", "ü/чай 茶.webm", "a/u\u0308.mov"]
    sources = found(fill(tmp_path, *paths), val_fraction=0.0)
    assert sources.keys() == set(paths)
    assert len({source.id for source in sources.values()}) == len(paths)
    # A list may encode ü differently from the disk.
    (tmp_path / "t.csv").write_text("path,label\na/ü.mov,x\n")
    assert labels_of(str(tmp_path), f"{tmp_path}/t.csv") == {"a/u\u0308.mov": "x"}


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    videos = fill(tmp_path / "videos", "a/1.mp4")
    (tmp_path / "videos/a/again").symlink_to(tmp_path / "videos")
    assert found(videos).keys() == {"a/1.mp4"}


def test_folders_named_like_videos(tmp_path: Path) -> None:
    """One that holds a video is a folder; one that holds none is an input of its own."""
    fill(tmp_path, "a/x.mp4/1.avi", "a/y.mp4/notes.txt", "a/z.avi/1.jpg")
    assert found(str(tmp_path)).keys() == {"a/x.mp4/1.avi", "a/y.mp4"}
    with_images = found(str(tmp_path), frames_fps=5.0)
    assert with_images.keys() == {"a/x.mp4/1.avi", "a/y.mp4", "a/z.avi"}
    assert with_images["a/z.avi"].frames_fps == 5.0


def test_a_table_says_it_all(tmp_path: Path) -> None:
    videos = fill(tmp_path / "videos", "a.mp4", "b.mp4")
    far = fill(tmp_path / "far", "c.mp4") + "/c.mp4"
    (tmp_path / "t.csv").write_text(
        "path,label,split,start_s,end_s,fps\n"
        "a.mp4,007,train,0,1.5,\na.mp4,007,train,1.5,3,12.5\n./b.mp4,x,test,,,\n"
        f"{far},x,val,,,\ngone.mp4,x,train,,,\n"
    )
    sources = list(inputs.list_sources(videos, Selection(f"{tmp_path}/t.csv")))
    rows = [(s.path, s.label, s.split, s.start_s, s.end_s, s.fps) for s in sources]
    assert rows == [
        (far, "x", "val", None, None, None),
        ("a.mp4", "007", "train", 0.0, 1.5, None),
        ("a.mp4", "007", "train", 1.5, 3.0, 12.5),
        ("b.mp4", "x", "val", None, None, None),
        ("gone.mp4", "x", "train", None, None, None),
    ]
    assert len({source.id for source in sources}) == 5
    assert sources[0].mtime_ns and not sources[-1].mtime_ns


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
        ("labels.csv", 'path,label\n"a.mp4,x\nb', "no valid csv"),
        ("labels.csv", "path,label\na.mp4,x,y\n", "no valid csv"),
        ("labels.csv", "\xff\xfe", "no valid csv"),
        ("labels.csv", "path,label\n", "no rows"),
        ("labels.csv", "path,label\n,x\n", "row 1: path is empty"),
        ("labels.csv", "path,label,split\na.mp4,x,tset\n", "row 1: split 'tset'"),
        ("labels.csv", "path,label,fps\na.mp4,x,fast\n", "column fps"),
        ("labels.csv", "path,label,fps\na.mp4,x,-5\n", "row 1: fps -5"),
        ("labels.csv", "path,label,start_s,end_s\na.mp4,x,3,2\n", "row 1: end_s 2"),
        ("labels.csv", "path,label,start_s\na.mp4,x,-1\n", "row 1: start_s -1"),
        ("labels.csv", "path,label\na.mp4,x\na.mp4,y\n", "a.mp4 twice"),
        ("labels.csv", "path,label\na.mp4,x\nb.mp4,\n", "b.mp4 has no label"),
        ("labels.csv", "path,label,split\na.mp4,x,val\nb.mp4,y,\n", "some have none"),
        ("labels.jsonl", '{"path": "a.mp4", "label": ', "line 1 is not JSON"),
        ("labels.jsonl", '{"path": "a.mp4", "label": "x"}\nnull', "line 2 is no object"),
        ("labels.jsonl", "[" * 100_000, "line 1 is not JSON"),
        ("labels.jsonl", '{"path": "a.mp4", "label": {"a": 1}}', "line 1: label is no text"),
        ("labels.parquet", "path,label", "no valid parquet"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    videos = fill(tmp_path / "videos", "a.mp4")
    if text:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        labels_of(videos, str(tmp_path / name))
    assert "--labels" in str(caught.value) or str(tmp_path / name) in str(caught.value)


def test_hidden_and_system_names_are_skipped_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = [
        ".ipynb_checkpoints/a.mp4", "__MACOSX/cat/._a.mp4", "@eaDir/b.mp4", "cat/.DS_Store",
        "cat/._a.mp4", "lost+found/c.mp4", "cat/#recycle/d.mp4", "cat/Thumbs.db",
    ]  # fmt: skip
    videos = fill(tmp_path, "cat/a.mp4", "dog/b.mp4", "cat/notes.txt", "labels.csv", *hidden)
    assert {path: s.label for path, s in found(videos).items()} == {
        "cat/a.mp4": "cat", "dog/b.mp4": "dog"
    }  # fmt: skip
    said = capsys.readouterr().out
    assert f"{len(hidden)} hidden or system files are skipped" in said
    assert "2 files are skipped as not videos (1 .csv, 1 .txt)" in said


def test_every_file_that_may_be_a_video_has_a_row(tmp_path: Path) -> None:
    names = ["a.mp4", "b.mxf", "c.y4m", "d.m2v", "e.f4v", "f", "g.unheard-of", "h.MP4"]
    videos = fill(tmp_path, *names, "i.srt", "j.zip", "k.json")
    assert sorted(found(videos, labels="none")) == names


def test_a_folder_that_may_not_be_read_has_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = fill(tmp_path / "videos", "cat/a.mp4", "dog/b.mp4", "dog/deep/c.mp4")
    original = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith(("/dog/deep", "/cat")):
            raise PermissionError(13, "Permission denied", path)
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert {path: s.label for path, s in found(videos).items()} == {
        "cat": "cat", "dog/b.mp4": "dog", "dog/deep": "dog"
    }  # fmt: skip


def test_one_file_has_one_id_however_it_is_named(tmp_path: Path) -> None:
    videos = fill(tmp_path / "videos", "cat/a.mp4", "cat/b.mp4")
    table = tmp_path / "labels.csv"
    ids = set()
    for spelling in ("cat/a.mp4", "./cat/a.mp4", "cat/../cat/a.mp4", f"{videos}/cat/a.mp4",
                     f"file://{videos}/cat/a.mp4"):  # fmt: skip
        table.write_text(f"path,label\n{spelling},cat\n")
        [(path, source)] = found(videos, labels=str(table)).items()
        assert path == "cat/a.mp4"
        ids.add(source.id)
    assert len(ids) == 1
    table.write_text(f"path,label\ncat/a.mp4,cat\n{videos}/cat/a.mp4,cat\n")
    with pytest.raises(UserError, match=r"lists cat/a\.mp4 twice"):
        inputs.list_sources(videos, Selection(labels=str(table)))


def test_rows_outside_the_listing_change_with_their_files(tmp_path: Path) -> None:
    videos = fill(tmp_path / "videos", "a.mp4")
    for name in ("other/b.mp4", "videos/.hidden.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    table = tmp_path / "labels.csv"
    rows = ["a.mp4", "../other/b.mp4", f"{tmp_path}/other/b.mp4", ".hidden.mp4"]
    for row in rows[1:]:
        table.write_text(f"path,label\na.mp4,x\n{row},x\n")
        sources = found(videos, labels=str(table), val_fraction=0.0)
        [other] = [source for path, source in sources.items() if path != "a.mp4"]
        assert other.size == 5 and other.mtime_ns


def test_a_class_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    with open(folder + b"/a.mp4", "wb"):
        pass
    with pytest.raises(UserError, match=r"class 'caf.*' is not UTF-8: rename its folder"):
        found(str(tmp_path))


def test_classes_that_look_the_same_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    composed, decomposed = "Caf\u00e9", "Cafe\u0301"
    videos = fill(tmp_path / "a", f"{composed}/a.mp4", f"{decomposed}/b.mp4")
    with pytest.raises(UserError, match="two classes look the same") as caught:
        found(videos)
    assert "\\u0301" in str(caught.value)
    videos = fill(tmp_path / "b", "Run/a.mp4", "run/b.mp4")
    assert {source.label for source in found(videos).values()} == {"Run", "run"}
    assert "classes 'Run' and 'run' differ by case only" in capsys.readouterr().out


def test_classes_may_be_called_like_nothing(tmp_path: Path) -> None:
    videos = fill(tmp_path / "videos", *(f"{n}.mp4" for n in range(5)))
    names = ["NA", "null", "nan", "None", "007"]
    rows = [f"{n}.mp4,{name}" for n, name in enumerate(names)]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["path,label", *rows]))
    assert list(labels_of(videos, str(table)).values()) == names


@pytest.mark.parametrize("spelling", ["{}", "{}/", "{}//"])
def test_a_trailing_slash_changes_no_id(tmp_path: Path, spelling: str) -> None:
    videos = fill(tmp_path / "videos", "cat/a.mp4", "cat/b.mp4")
    config = ShardVideos(videos=spelling.format(videos))
    ids = {source.id for source in inputs.list_sources(config.videos_uri, config.selection)}
    assert ids == {manifest.video_id(f"cat/{name}.mp4") for name in "ab"}


def test_a_bucket_may_end_in_a_slash() -> None:
    uris = {ShardVideos(videos=text).videos_uri for text in ("s3://bucket", "s3://bucket/")}
    assert uris == {"s3://bucket"}


def listing(counts: dict[str, int], val_fraction: float = 0.1) -> SourceTable:
    """Videos of classes, split by chance."""
    videos = [
        manifest.Source(f"{label}/{n}.mp4", f"/v/{label}/{n}", 1, None, 1, label, "")
        for label, count in counts.items()
        for n in range(count)
    ]
    return split_sources(SourceTable(videos), Selection(val_fraction=val_fraction))


EVEN = {f"class{n}": 100 for n in range(10)}


@pytest.mark.parametrize("val_fraction", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("counts", [EVEN, {"a": 700, "b": 50, "c": 5}, {"a": 12}])
def test_a_part_of_the_videos_has_the_share_of_each_split_and_class(
    counts: dict[str, int], val_fraction: float
) -> None:
    videos = listing(counts, val_fraction)
    whole = Counter((s.split, s.label) for s in videos)
    splits, before = Counter(s.split for s in videos), set[str]()
    for count in [*range(1, min(40, len(videos))), *range(40, len(videos), 41), len(videos)]:
        found = inputs.sampled(videos, count)
        ids = {s.id for s in found}
        assert len(found) == len(ids) == count and before < ids
        before, share = ids, count / len(videos)
        of_split = Counter(s.split for s in found)
        for split in splits:
            assert abs(of_split[split] - splits[split] * share) <= 1, (count, of_split)
        of_both = Counter((s.split, s.label) for s in found)
        for (split, label), there in whole.items():
            wanted = there * of_split[split] / splits[split]
            assert abs(of_both[split, label] - wanted) <= 1, (count, of_both)
        assert of_split["train"] and (count == 1 or bool(of_split["val"]) == ("val" in splits))
        if counts is EVEN and count == len(EVEN):
            assert len({s.label for s in found}) == count
    assert [s.id for s in found] == [s.id for s in videos]


def test_a_part_of_the_videos_changes_little_with_a_video_more() -> None:
    before = {s.id for s in inputs.sampled(listing(EVEN), 200)}
    after = {s.id for s in inputs.sampled(listing(EVEN | {"class3": 101}), 200)}
    assert len(before - after) <= 2


def test_a_part_of_the_videos_is_spread_over_shards() -> None:
    """Which shard a video belongs to follows from its id."""
    found = inputs.sampled(listing({"a": 2000}), 400)
    low = sum(int(s.id[8:], 16) < 2**31 for s in found) / len(found)
    assert 0.4 < low < 0.6


def test_what_cameras_write_beside_a_video_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy of low resolution would be a video of its own, perhaps in the other split."""
    beside = [
        "surf/GL010036.LRV", "surf/GX010036.THM", "surf/DJI_0001.LRF", "surf/DJI_0001.SRT",
        "surf/IMG_1.AAE", "surf/IMG_1.xmp", "surf/track.gpx", "surf/00001.CPI", "surf/00001.MPL",
        "surf/INDEX.BDM", "surf/C0001M01.XML", "surf/M1.MODD", "surf/G1.GPR",
    ]  # fmt: skip
    recordings = ["surf/GX010036.MP4", "surf/V1.insv", "surf/00001.MTS", "surf/MOV1.MOD"]
    assert found(fill(tmp_path, *recordings, *beside)).keys() == set(recordings)
    assert f"{len(beside)} files are skipped as not videos" in capsys.readouterr().out


def test_images_beside_videos_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = fill(tmp_path, "a.mp4", "wave.webp", "b.webp", "c.png", "d.jpg", "e.txt", "f.csv")
    fill(tmp_path, "g.srt", "h.zip", "i.zip")
    assert found(videos).keys() == {"a.mp4"}
    said = "9 files are skipped as not videos (2 .webp, 2 .zip, 1 .csv, 1 .jpg, 1 .png, 2 others)"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("unnamed", [["_SUCCESS"], ["README", "LICENSE", "__len__", "SHA256SUMS"]])
def test_a_table_beside_files_without_a_suffix(
    unnamed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Spark and others write such files; they hide neither tables nor tars."""
    fill(tmp_path / "list", *unnamed)
    pq.write_table(pa.table({"path": ["a.mp4", "b.mp4"]}), tmp_path / "list/part-0000.parquet")
    assert found(f"{tmp_path}/list", labels="none").keys() == {"a.mp4", "b.mp4"}
    said = f"{len(unnamed)} files without a suffix are not taken for videos"
    assert said in capsys.readouterr().out
    fill(tmp_path / "tars", *unnamed)
    tar(tmp_path / "tars/000.tar", member("cat/a.mp4", b"x"))
    assert found(f"{tmp_path}/tars").keys() == {"cat/a.mp4"}


def test_videos_without_a_suffix(tmp_path: Path) -> None:
    """Alone they are videos, and so are many beside a table."""
    few = [f"v{number}" for number in range(3)]
    assert found(fill(tmp_path / "few", *few, "notes.txt")).keys() == set(few)
    many = [f"v{number}" for number in range(FEW + 1)]
    videos = fill(tmp_path / "many", *many)
    pq.write_table(pa.table({"path": ["v1"]}), tmp_path / "many/table.parquet")
    assert found(videos).keys() == set(many)
