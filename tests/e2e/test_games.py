"""Games: played on workers, the same bytes again, and split as their list says."""

from pathlib import Path

import pytest

from pipelines.io import workspace
from pipelines.sharding import manifest

FLAGS = ("--kind", "games", "--games", "pong,freeway", "--size", 64, "--duration-s", 2)


@pytest.mark.e2e
def test_games_are_played_and_cut(job, tmp_path: Path):
    pytest.importorskip("ale_py")
    videos = tmp_path / "a" / "videos"
    made = job("demo_videos", "--root", tmp_path / "a", *FLAGS, "--count", 4)
    assert made.figure == "demo_videos: 4 videos, 4 of them new", made.stderr
    before = {path.name: path.read_bytes() for path in videos.rglob("*.mp4")}
    assert len(set(before.values())) == 4
    (videos / "pong/pong-001.mp4").unlink()
    again = job("demo_videos", "--root", tmp_path / "a", *FLAGS, "--count", 4)
    assert again.figure == "demo_videos: 4 videos, 1 of them new"
    assert {path.name: path.read_bytes() for path in videos.rglob("*.mp4")} == before

    cut = job("shard_videos", "games", "--root", tmp_path / "a", "--size", 32)
    assert cut.status == 0, cut.stderr
    index = workspace.published(str(tmp_path / "a/clips"), "index.json")
    assert index["classes"] == ["freeway", "pong"]
    # Of 60 frames three clips at 30 fps, and one of 30 at 15.
    assert index["counts"] == {"train": 8, "val": 8}
    rows = manifest.read(str(tmp_path / "a/videos.parquet")).to_pylist()
    assert {Path(row["uri"]).name: row["split"] for row in rows} == {
        f"{game}-00{number}.mp4": split
        for game in ("freeway", "pong")
        for number, split in enumerate(("train", "val"))
    }
