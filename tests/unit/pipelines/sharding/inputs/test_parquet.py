"""Parquet tables of videos' bytes: listed without them, read one row at a time."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.io import storage
from pipelines.sharding.inputs import parquet
from pipelines.video.reasons import VideoError
from tests.input_folders import found
from tests.odd_videos import write
from tests.video_tars import cut
from vqvdm.errors import UserError


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number * (number + 1) for number in range(count)]


def rows_of(videos: str) -> list[bytes]:
    """The bytes of each row in order, each fetched by itself."""
    contents = []
    for source in found(videos, labels="none").values():
        with parquet.fetch(source) as path:
            contents.append(Path(path).read_bytes())
    return contents


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("codec", ["snappy", "zstd", "none"])
def test_every_row_comes_back(kind: pa.DataType, codec: str, tmp_path: Path) -> None:
    contents = numbered(50)
    table = pa.table({"mp4": pa.array(contents, kind), "n": range(50)})
    file = tmp_path / "a.parquet"
    pq.write_table(table, file, row_group_size=7, compression=codec, data_page_size=64)
    assert rows_of(str(file)) == contents
    sources = found(str(file))
    assert list(sources) == [f"a.parquet/{n:08d}" for n in range(50)]
    # The name of the file is no class.
    assert {source.label for source in sources.values()} == {None}


def test_clips_are_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "folder/cat").mkdir(parents=True)
    first = write(tmp_path / "folder/cat/1.mp4", "libx264", count=20)
    table = pa.table({"path": ["cat/1.mp4"], "video": [first.read_bytes()], "caption": ["a cat"]})
    pq.write_table(table, tmp_path / "a.parquet")
    [source] = found(f"{tmp_path}/a.parquet").values()
    [file] = found(f"{tmp_path}/folder").values()
    assert (source.id, source.label) == (file.id, "cat")
    accounts, clips = cut([source], tmp_path / "clips")
    assert accounts["cat/1.mp4"].status == "ok" and len(clips) == 5
    _, wanted = cut([file], tmp_path / "wanted")
    for clip, other in zip(clips, wanted, strict=True):
        assert (clip.key, clip.members["mkv"]) == (other.key, other.members["mkv"])
        assert json.loads(clip.members["json"]) == json.loads(other.members["json"]) | {
            "caption": "a cat"
        }


def test_a_folder_of_parts(tmp_path: Path) -> None:
    """Another part, or one that was written again, changes no other."""
    contents = numbered(6)
    for part in range(2):
        rows = contents[3 * part : 3 * part + 3]
        pq.write_table(pa.table({"bytes": rows}), tmp_path / f"part-{part}.parquet")
    before = found(str(tmp_path), val_fraction=0.0)
    assert list(before) == [f"part-{n // 3}.parquet/{n % 3:08d}" for n in range(6)]
    assert rows_of(str(tmp_path)) == contents
    pq.write_table(pa.table({"bytes": contents[:1]}), tmp_path / "part-2.parquet")
    os.utime(tmp_path / "part-1.parquet", ns=(1, 1))
    after = found(f"{tmp_path}/part-*.parquet", val_fraction=0.0)
    changed = [path for path in after if before.get(path) != after[path]]
    assert changed == [*list(before)[3:], "part-2.parquet/00000000"]


def test_videos_as_datasets_writes_them(tmp_path: Path) -> None:
    """A struct of bytes and path, as in the Parquet files of Hugging Face's hub."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    values = [{"bytes": b"one", "path": "1.mp4"}, {"bytes": b"two", "path": None}]
    table = pa.table({"clip": pa.array(values, kind), "label": [3, 4], "split": ["train", "test"]})
    pq.write_table(table, tmp_path / "a.parquet")
    sources = list(found(f"{tmp_path}/a.parquet").values())
    assert [(s.label, s.split, s.columns) for s in sources] == [
        ("3", "train", None), ("4", "val", None)
    ]  # fmt: skip
    assert rows_of(f"{tmp_path}/a.parquet") == [b"one", b"two"]


def test_rows_without_bytes_are_accounted_for(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"video": [b"", None, b"no video"], "thumbnail": [b"1"] * 3}), file)
    accounts, _ = cut(list(found(str(file)).values()), tmp_path / "clips")
    assert [account.reason for account in accounts.values()] == ["empty", "empty", "unreadable"]


def test_a_table_that_changed_meanwhile(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"video": numbered(3)}), file)
    last = list(found(str(file)).values())[-1]
    pq.write_table(pa.table({"video": numbered(2)}), file)
    with pytest.raises(VideoError, match="missing: the table has no such row"):
        parquet.read_video(last.container or "", last.position or 0)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(VideoError, match="unreadable: the table cannot be read"):
        parquet.read_video(str(file), 0)
    file.unlink()
    accounts, _ = cut([last], tmp_path / "clips")
    assert accounts[last.path].reason == "missing"


@pytest.mark.parametrize("place", ["", "memory:/"])
def test_damage_does_not_pass_for_an_absent_store(place: str, tmp_path: Path) -> None:
    """Arrow tells it by errors of several kinds, among them those of files."""
    file, kinds = tmp_path / "a.parquet", set[type]()
    table = pa.table({"video": numbered(50)})
    pq.write_table(table, file, compression="snappy", use_dictionary=False)
    whole = file.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    uri = f"{place}{file}"
    # The header of a page, its content, the footer, and the sign at the end.
    for start, length in ((4, 20), (60, 200), (footer, 40), (len(whole) - 4, 4)):
        storage.publish_bytes(whole[:start] + b"\xff" * length + whole[start + length :], uri)
        with pytest.raises(VideoError, match="unreadable: the table cannot be read") as caught:
            parquet.read_video(uri, 40)
        error = caught.value.__cause__
        kinds.add(type(error.__cause__ or error))  # type: ignore[union-attr]
        if start >= footer:
            with pytest.raises(UserError, match=r"a\.parquet: is no valid parquet table"):
                found(uri)
    assert kinds == {OSError, pa.ArrowInvalid}


@pytest.mark.parametrize("name", ["video", "path"])
def test_text_that_is_not_utf8(name: str, tmp_path: Path) -> None:
    text = pa.array([b"\xff"]).view(pa.string())
    other = {"video": [b"1"]} if name == "video" else {"label": ["1"]}
    pq.write_table(pa.table({"path": text} | other), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: is (no valid parquet|not text in UTF-8)"):
        found(f"{tmp_path}/a.parquet")


def test_mistakes_are_told(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": [b"1"], "b": [b"1"]}), file)
    with pytest.raises(UserError, match="a and b hold bytes: call the column of videos video"):
        found(str(file))
    pq.write_table(pa.table({"video": [b"1"], "width": [1]}), file)
    with pytest.raises(UserError, match="the column width has a name"):
        found(str(file))
    assert len(found(str(file), columns="none")) == 1
    pq.write_table(pa.table({"video": [b"1"]}), file)
    pq.write_table(pa.table({"caption": ["1"]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet: has no column of bytes"):
        found(str(tmp_path))


LARGE, ROWS, GROUP = 2**20, 160, 8
"""160 MB of videos in row groups of 8 MB."""


def peak(file: str) -> None:
    """List a table and fetch its last row; print by how many MB that raises the peak of memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    with parquet.fetch(list(found(file).values())[-1]) as path:
        assert os.path.getsize(path) == LARGE
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 - before)


@pytest.mark.long
def test_bytes_of_one_row_group_at_most_are_in_memory(tmp_path: Path) -> None:
    rows, kind = [os.urandom(LARGE) for _ in range(ROWS)], pa.schema([("video", pa.binary())])
    with pq.ParquetWriter(tmp_path / "a.parquet", kind, use_dictionary=False) as writer:
        for start in range(0, ROWS, GROUP):
            writer.write_table(pa.table({"video": rows[start : start + GROUP]}, kind))
    code = "from tests.unit.pipelines.sharding.inputs.test_parquet import peak; peak"
    command = [sys.executable, "-c", f"{code}({str(tmp_path / 'a.parquet')!r})"]
    place = Path(__file__).parents[5]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=True)
    # A row group as it is stored, its values, and what opening and listing take.
    assert int(done.stdout.split()[-1]) < 60
