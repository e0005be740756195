"""Shards of clips, and what others write, between this project and the readers people have."""

import json
from pathlib import Path

import datasets
import pytest
import webdataset as wds

from pipelines.io.shards import Sample
from pipelines.sharding.manifest import Source
from pipelines.video.encoder import decode_clip
from tests.input_folders import found
from tests.odd_videos import write
from tests.video_tars import cut


@pytest.fixture
def clips(tmp_path: Path) -> list[Sample]:
    """Those of a shard `train-000000.tar` below `clips`, of a video with a caption."""
    path = write(tmp_path / "a.mp4", "libx264", count=12)
    said = '{"caption": "a cat", "tags": ["x"]}'
    video = Source("a.mp4", str(path), 1, None, 1, "cat", "train", columns=said)
    _, samples = cut([video], tmp_path / "clips")
    assert len(samples) == 3
    return samples


def test_webdataset_reads_clips(clips: list[Sample], tmp_path: Path) -> None:
    shard = wds.WebDataset(f"{tmp_path}/clips/train-000000.tar", shardshuffle=False)
    for sample, clip in zip(shard, clips, strict=True):
        assert sample["__key__"] == clip.key
        assert decode_clip(sample["mkv"]).shape == (4, 64, 64, 3)
        said = json.loads(sample["json"])
        assert (said["caption"], said["tags"], said["label"]) == ("a cat", ["x"], "cat")


def test_datasets_reads_clips(clips: list[Sample], tmp_path: Path) -> None:
    shards = {"train": f"{tmp_path}/clips/*.tar"}
    loaded = datasets.load_dataset(
        "webdataset", data_files=shards, split="train", cache_dir=str(tmp_path / "cache")
    ).cast_column("mkv", datasets.Video(decode=False))
    assert len(loaded) == len(clips)
    for row, clip in zip(loaded, clips, strict=True):
        assert (row["__key__"], row["mkv"]["bytes"]) == (clip.key, clip.members["mkv"])
        assert row["json"] == json.loads(clip.members["json"])


def test_what_datasets_writes_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", "libx264", count=8)
    kinds = {"video": datasets.Video(decode=False), "label": datasets.Value("string")}
    rows = {"video": [{"bytes": path.read_bytes(), "path": "a.mp4"}], "label": ["cat"]}
    written = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    written.to_parquet(tmp_path / "videos.parquet")
    sources = list(found(f"{tmp_path}/videos.parquet").values())
    assert [source.label for source in sources] == ["cat"]
    _, clips = cut(sources, tmp_path / "clips")
    assert len(clips) == 2
