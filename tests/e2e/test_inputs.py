"""Tars and tables in a bucket become shards that other readers open; what changed is redone."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds

from pipelines.io import storage
from pipelines.video.encoder import decode_clip
from tests.e2e.conftest import KEY, SECRET
from tests.odd_videos import write
from tests.unit.pipelines.sharding.test_spans import large
from tests.web_server import web_server

FLAGS = ("--frames", 4, "--size", 64, "--fps", "native", "--val-fraction", 0,
         "--videos-per-shard", 2, "--num-workers", 2)  # fmt: skip


@pytest.fixture
def connected(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ACCESS_KEY_ID", KEY), ("SECRET_ACCESS_KEY", SECRET)):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)


def packed(videos: dict[str, bytes]) -> bytes:
    """A tar as WebDataset writes it, with a label and a caption for each video."""
    file = io.BytesIO()
    with wds.TarWriter(file, encoder=False) as writer:
        for key, content in videos.items():
            said = {"label": key[0], "caption": f"video {key}"}
            sample = {"__key__": key, "mp4": content, "json": json.dumps(said).encode()}
            writer.write(sample)
    return file.getvalue()


@pytest.mark.e2e
def test_tars_in_a_bucket(job, connected: None, tmp_path: Path):
    contents = {
        f"{name}{n}": write(tmp_path / "v.mp4", "libx264", count=8, first=4 * n).read_bytes()
        for name in "ab" for n in range(3)
    }  # fmt: skip
    for number, name in enumerate("ab"):
        videos = {key: content for key, content in contents.items() if key[0] == name}
        storage.publish_bytes(packed(videos), f"s3://bucket/inputs/{number:03d}.tar")
    root = tmp_path / "root"
    flags = ("--videos", "s3://bucket/inputs/{000..001}.tar", "--root", root, *FLAGS)
    outcome = job("shard_videos", *flags)
    assert outcome.status == 0, outcome.stderr
    assert "12 clips of 6 videos" in outcome.figure

    table = pq.read_table(root / "videos.parquet").to_pylist()
    assert {row["caption"] for row in table} == {f"video {key}" for key in contents}
    assert {row["uri"] for row in table if row["label"] == "a"} == {
        f"s3://bucket/inputs/000.tar/a{n}.mp4" for n in range(3)
    }
    shards = sorted(map(str, (root / "clips").glob("*.tar")))
    samples = list(wds.WebDataset(shards, shardshuffle=False))
    assert len(samples) == 12
    for sample in samples:
        said = json.loads(sample["json"])
        assert said["caption"] == f"video {said['source'].removesuffix('.mp4')}"
        assert said["class_index"] == "ab".index(said["label"])
        assert decode_clip(sample["mkv"]).shape == (4, 64, 64, 3)

    assert "verified" in job("shard_videos", *flags).figure
    before = {shard: Path(shard).stat().st_mtime_ns for shard in shards}
    videos = {key: contents[key] for key in ("a0", "a1", "a2")}
    storage.publish_bytes(packed(videos | {"a0": contents["b1"]}), "s3://bucket/inputs/000.tar")
    assert job("shard_videos", *flags).status == 0
    for shard, time_ns in before.items():
        with tarfile.open(shard) as tar:
            labels = {
                json.loads(file.read())["label"]
                for member in tar
                if member.name.endswith(".json") and (file := tar.extractfile(member))
            }
        assert (Path(shard).stat().st_mtime_ns != time_ns) == ("a" in labels)

    # The same videos as rows of a table give the same clips: keys, frames and what is said of them.
    rows = [
        {"path": f"{key}.mp4", "video": content, "label": key[0], "caption": f"video {key}"}
        for key, content in (contents | {"a0": contents["b1"]}).items()
    ]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=4)
    storage.publish_bytes(file.getvalue(), "s3://bucket/inputs/videos.parquet")
    other = tmp_path / "other"
    flags = ("--videos", "s3://bucket/inputs/videos.parquet", "--root", other, *FLAGS)
    assert job("shard_videos", *flags).status == 0
    for shard in shards:
        assert (other / "clips" / Path(shard).name).read_bytes() == Path(shard).read_bytes()


@pytest.mark.e2e
def test_signed_addresses_of_a_server_that_goes_away(job, tmp_path: Path):
    """Clips stay while it is away, and where the address is signed anew; no file tells how."""
    video = write(tmp_path / "v.mp4", "libx264", count=8).read_bytes()
    videos, root = tmp_path / "urls.txt", tmp_path / "root"
    flags = ("--videos", videos, "--root", root, "--labels", "none", *FLAGS)
    with web_server({f"a.mp4?sig={word}": video for word in ("planted", "anew")}) as server:
        address = f"{server.address}/plain/a.mp4"
        videos.write_text(f"{address}?sig=planted\n")
        outcome = job("shard_videos", *flags)
        assert outcome.status == 0, outcome.stderr
        assert "2 clips of 1 videos" in outcome.figure
        said = outcome.stderr + outcome.figure
        videos.write_text(f"{address}?sig=anew\n")
        assert "verified" in job("shard_videos", *flags).figure
    before = {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}
    outcome = job("shard_videos", *flags)
    assert outcome.status == 2 and "1 of 1 addresses do not answer" in outcome.stderr
    after = {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}
    assert before == after and any(file.suffix == ".tar" for file in before)
    assert "planted" not in said + outcome.stderr
    assert not [file for file, content in before.items() if b"planted" in content]


@pytest.mark.e2e
def test_films_in_a_bucket_give_the_clips_of_films_on_a_disk(job, connected: None, tmp_path: Path):
    for name, mib in {"a/film.mp4": 2.5, "b/film.mp4": 1.5, "b/short.mp4": 0.9}.items():
        path = large(tmp_path / "videos" / name, mib, count=60)
        storage.publish_file(path, f"s3://bucket/films/{name}")
    found, flags = [], ("--span-mb", 1, *FLAGS)
    for number, videos in enumerate((tmp_path / "videos", "s3://bucket/films"), 1):
        root = tmp_path / f"root{number}"
        outcome = job("shard_videos", "--videos", videos, "--root", root, *flags,
                      "--num-workers", number)  # fmt: skip
        assert outcome.status == 0, outcome.stderr
        assert "45 clips of 6 videos" in outcome.figure
        assert "5 of these videos are spans of 2 large files" in outcome.stdout
        found.append({tar.name: tar.read_bytes() for tar in (root / "clips").glob("*.tar")})
        assert len(found[-1]) == 6
        rows = pq.read_table(root / "videos.parquet").to_pylist()
        assert {row["uri"] for row in rows if row["spans"] == 3} == {f"{videos}/a/film.mp4"}
    assert found[0] == found[1]
