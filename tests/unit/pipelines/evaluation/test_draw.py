"""Real clips are drawn from the account of videos, and read as they were drawn."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipelines.evaluation.draw import Pick, draw, read_picks
from pipelines.io import manifest
from pipelines.io.shards import Marker, ShardWriter
from vqvdm.errors import UserError

CLIPS = {"long": 90, "mid": 9, "short": 1, "none": 0}
ROWS: list[dict[str, Any]] = [{"id": name, "clips": count} for name, count in CLIPS.items()]
MARKERS = [Marker("train-0", "0", 0, ["k"], list(CLIPS), "spec", "made")]


def test_by_clips_long_videos_weigh_more() -> None:
    picks = draw(MARKERS, ROWS, "clips", 50, seed=0)
    assert len(set(picks)) == 50
    assert Counter(pick.source for pick in picks)["long"] > 40
    assert {pick.ordinal for pick in picks} < set(range(90))


def test_by_videos_each_gives_one() -> None:
    picks = draw(MARKERS, ROWS, "videos", 50, seed=0)
    assert sorted(pick.source for pick in picks) == ["long", "mid", "short"]
    assert any(draw(MARKERS, ROWS, "videos", 50, seed) != picks for seed in range(1, 4))


def test_the_order_of_rows_decides_nothing() -> None:
    assert draw(MARKERS, ROWS[::-1], "clips", 9, 1) == draw(MARKERS, ROWS, "clips", 9, 1)


def test_the_start_of_a_longer_draw_is_the_shorter_one() -> None:
    assert draw(MARKERS, ROWS, "clips", 20, 1)[:9] == draw(MARKERS, ROWS, "clips", 9, 1)


@pytest.fixture
def shard(tmp_path: Path) -> Marker:
    with ShardWriter(str(tmp_path), "train-000000") as writer:
        for path, starts in {"a/x.mp4": (0.0, 1.0, 2.0), "b/y.mp4": (0.0,)}.items():
            for start_s in starts:
                about = {"class_index": None if path[0] == "b" else 3, "fps": 8.0}
                about |= {"source": path, "start_s": start_s}
                content = f"{path} {start_s}".encode()
                key = str(hash((path, start_s)) % 2**32)
                writer.add(key, {"mp4": content, "json": json.dumps(about).encode()})
        return writer.publish(["x", "y"], "spec", "made", {})


def test_picks_are_read_in_their_order(tmp_path: Path, shard: Marker) -> None:
    x, y = manifest.video_id("a/x.mp4"), manifest.video_id("b/y.mp4")
    picks = [Pick(shard.name, x, 2), Pick(shard.name, y, 0), Pick(shard.name, x, 0)]
    clips = read_picks(str(tmp_path), shard, picks)
    assert [clip.mp4 for clip in clips] == [b"a/x.mp4 2.0", b"b/y.mp4 0.0", b"a/x.mp4 0.0"]
    assert [clip.class_index for clip in clips] == [3, -1, 3]


def test_an_account_that_does_not_fit_is_refused(tmp_path: Path, shard: Marker) -> None:
    with pytest.raises(UserError, match=r"run jobs/shard_videos\.py again"):
        read_picks(str(tmp_path), shard, [Pick(shard.name, manifest.video_id("a/x.mp4"), 3)])


def test_a_damaged_shard_is_refused(tmp_path: Path, shard: Marker) -> None:
    tar = tmp_path / f"{shard.name}.tar"
    tar.write_bytes(tar.read_bytes()[:-100])
    with pytest.raises(UserError, match="does not match its marker"):
        read_picks(str(tmp_path), shard, [])
