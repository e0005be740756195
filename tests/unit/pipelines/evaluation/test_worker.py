"""Clips are read in the order in which they were drawn."""

import json
from pathlib import Path

import pytest

from pipelines.evaluation.batches import ClipRef
from pipelines.evaluation.worker import read_clips
from pipelines.io.markers import Marker
from pipelines.io.shards import ShardWriter
from pipelines.sharding import manifest
from vqvdm.errors import UserError


@pytest.fixture
def shard(tmp_path: Path) -> Marker:
    with ShardWriter(str(tmp_path), "train-000000") as writer:
        for path, starts in {"a/x.mp4": (0.0, 1.0, 2.0), "b/y.mp4": (0.0,)}.items():
            for start_s in starts:
                metadata = {"label": None if path[0] == "b" else "apple", "fps": 8.0}
                metadata |= {"source": path, "start_s": start_s}
                content = f"{path} {start_s}".encode()
                key = str(hash((path, start_s)) % 2**32)
                writer.add(key, {"mp4": content, "json": json.dumps(metadata).encode()})
        return writer.publish(["x", "y"], "spec", "made", {})


def test_clips_are_read_in_the_order_of_references(tmp_path: Path, shard: Marker) -> None:
    x, y = manifest.video_id("a/x.mp4"), manifest.video_id("b/y.mp4")
    refs = [ClipRef(shard.name, x, 2), ClipRef(shard.name, y, 0), ClipRef(shard.name, x, 0)]
    clips = read_clips(str(tmp_path), shard, refs)
    assert [clip.mp4 for clip in clips] == [b"a/x.mp4 2.0", b"b/y.mp4 0.0", b"a/x.mp4 0.0"]
    assert [clip.label for clip in clips] == ["apple", None, "apple"]


def test_an_account_that_does_not_fit_is_refused(tmp_path: Path, shard: Marker) -> None:
    with pytest.raises(UserError, match=r"run jobs/shard_videos\.py again"):
        read_clips(str(tmp_path), shard, [ClipRef(shard.name, manifest.video_id("a/x.mp4"), 3)])


def test_a_damaged_shard_is_refused(tmp_path: Path, shard: Marker) -> None:
    tar = tmp_path / f"{shard.name}.tar"
    tar.write_bytes(tar.read_bytes()[:-100])
    with pytest.raises(
        UserError, match=r"does not match its marker: run jobs/shard_videos\.py again"
    ):
        read_clips(str(tmp_path), shard, [])
