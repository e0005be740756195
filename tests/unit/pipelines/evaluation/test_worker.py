"""Clips are read in the order in which they were drawn."""

import json
from pathlib import Path

import pytest

from pipelines.evaluation.batches import ClipRef
from pipelines.evaluation.worker import read_clips
from pipelines.io.markers import Marker
from pipelines.io.shards import ShardWriter
from pipelines.sharding import manifest
from pipelines.sharding.clips_of_videos import keys_of_parts
from pipelines.sharding.manifest import Account, Source
from vqvdm.errors import UserError


def part(path: str, start_s: float, end_s: float) -> Source:
    return Source(path, f"/{path}", 1, None, 1, None, "train", start_s, end_s)


X, Y = (Source(path, f"/{path}", 1, None, 1, None, "train") for path in ("a/x.mp4", "b/y.mp4"))
ALONE = part("a/alone.mp4", 1.0, 3.0)
FIRST, SECOND = part("a/both.mp4", 0.0, 2.0), part("a/both.mp4", 4.0, 6.0)
STARTS = {X: (0.0, 1.0, 2.0), Y: (0.0,), ALONE: (1.0, 2.0), FIRST: (0.0, 1.0), SECOND: (4.0, 5.0)}


@pytest.fixture
def shard(tmp_path: Path) -> Marker:
    keys: dict[Source, list[str]] = {}
    with ShardWriter(str(tmp_path), "train-000000") as writer:
        for source, starts in STARTS.items():
            path = source.path
            for start_s in starts:
                metadata = {"label": None if path[0] == "b" else "apple", "fps": 8.0}
                metadata |= {"source": path, "start_s": start_s}
                content = f"{path} {start_s}".encode()
                key = str(hash((path, start_s)) % 2**32)
                writer.add(key, {"mkv": content, "json": json.dumps(metadata).encode()})
                keys.setdefault(source, []).append(key)
        accounts = [(source, Account("ok", None, len(starts))) for source, starts in STARTS.items()]
        details = manifest.to_marker(accounts) | keys_of_parts(keys.items())
        return writer.publish([source.id for source in STARTS], "spec", "made", details)


def test_clips_are_read_in_the_order_of_references(tmp_path: Path, shard: Marker) -> None:
    refs = [ClipRef(shard.name, source.id, n) for source, n in [(X, 2), (Y, 0), (X, 0)]]
    clips = read_clips(str(tmp_path), shard, refs)
    assert [clip.video for clip in clips] == [b"a/x.mp4 2.0", b"b/y.mp4 0.0", b"a/x.mp4 0.0"]
    assert [clip.label for clip in clips] == ["apple", None, "apple"]


def test_clips_of_parts_are_those_of_the_part(tmp_path: Path, shard: Marker) -> None:
    drawn = [(SECOND, 1), (ALONE, 0), (FIRST, 1), (SECOND, 0)]
    clips = read_clips(str(tmp_path), shard, [ClipRef(shard.name, s.id, n) for s, n in drawn])
    assert [(clip.source, clip.start_s) for clip in clips] == [
        ("a/both.mp4", 5.0), ("a/alone.mp4", 1.0), ("a/both.mp4", 1.0), ("a/both.mp4", 4.0),
    ]  # fmt: skip


def test_an_account_that_does_not_fit_is_refused(tmp_path: Path, shard: Marker) -> None:
    with pytest.raises(UserError, match=r"run jobs/shard_videos\.py again"):
        read_clips(str(tmp_path), shard, [ClipRef(shard.name, X.id, 3)])


def test_a_damaged_shard_is_refused(tmp_path: Path, shard: Marker) -> None:
    tar = tmp_path / f"{shard.name}.tar"
    tar.write_bytes(tar.read_bytes()[:-100])
    with pytest.raises(
        UserError, match=r"does not match its marker: run jobs/shard_videos\.py again"
    ):
        read_clips(str(tmp_path), shard, [])
