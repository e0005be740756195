"""Near-duplicates end to end: altered copies are left out, and no video is hashed twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines import shard_videos as page
from pipelines.io.markers import Marker
from pipelines.sharding import manifest, perceptual_hash
from pipelines.sharding.clip_shards import make_shard
from pipelines.sharding.settings import Filters, ShardVideos
from pipelines.video.header import VideoInfo
from tests.odd_videos import QUIET, image_folder, write

FRAMES = 24


def scene(seed: int, height: int = 96, width: int = 128) -> list[np.ndarray]:
    """A smooth picture that moves sideways."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, : width + FRAMES] / np.array([height, width]).reshape(2, 1, 1)
    waves = rng.uniform(-3, 3, (6, 3)) * [1, 1, 2]
    plane = sum(np.sin(2 * np.pi * (a * y + b * x) + c) for a, b, c in waves)
    wide = np.clip(128 + 40 * plane, 0, 255).astype(np.uint8)[..., None].repeat(3, 2)
    return [np.ascontiguousarray(wide[:, n : n + width]) for n in range(FRAMES)]


def made(path: Path, seed: int, codec: str = "libx264", **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = scene(seed)
    size = frames[0].shape[:2]
    return write(path, codec, count=FRAMES, size=size, frames=frames, **options)  # type: ignore[arg-type]


class Folder:
    """A folder of videos, planned and cut in this process."""

    def __init__(self, place: Path, **settings: object) -> None:
        filters = Filters(min_distance=4)
        self.videos = place / "videos"
        self.config = ShardVideos(
            root=str(place), labels="none", frames=4, size=16, videos_per_shard=2, filters=filters
        )
        self.config = replace(self.config, **settings)
        self.hashed: list[str] = []

    def run(self, monkeypatch: pytest.MonkeyPatch) -> set[str]:
        """Names of the shards that were made."""
        original = perceptual_hash._hash
        self.hashed = []

        def hash(source, plan, videos):
            self.hashed.append(source.path)
            return original(source, plan, videos)

        def serially(task, plans, config, **columns):
            for plan in plans:
                yield plan, task({"plan": plan, "retry": config.retry_failed, **columns})

        monkeypatch.setattr(perceptual_hash, "_hash", hash)
        monkeypatch.setattr(page, "on_workers", serially)
        plans = page.plan_shards(self.config)
        plans.near_duplicates = page.find_near_duplicates(plans, self.config)
        rows = [make_shard({"plan": plan, "retry": False, "verify": True}) for plan in plans]
        self.markers = [Marker.from_json(row["marker"]) for row in rows]
        monkeypatch.undo()
        return {row["name"] for row in rows if row["made"]}

    @property
    def duplicates(self) -> dict[str, tuple[str | None, float | None]]:
        """By the path of each near-duplicate: the detail of its account, and its distance."""
        accounts = [pair for m in self.markers for pair in manifest.from_marker(m.details)]
        return {
            source.path: (account.detail, account.score)
            for source, account in accounts
            if account.reason == "near_duplicate" and account.clips == 0 and not account.failed
        }


def test_altered_copies_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path)
    first = made(folder.videos / "a.mp4", 0)
    made(folder.videos / "b/again.avi", 0, "mpeg4")
    made(folder.videos / "b/rough.mp4", 0, "libx265", **QUIET, crf="40")
    (folder.videos / "z.mp4").write_bytes(first.read_bytes())
    for seed in range(1, 6):
        made(folder.videos / f"other-{seed}.mp4", seed)
    (folder.videos / "text.mp4").write_text("no video")
    folder.run(monkeypatch)
    assert set(folder.duplicates) == {"b/again.avi", "b/rough.mp4", "z.mp4"}
    assert {what for what, _ in folder.duplicates.values()} == {"of a.mp4"}
    assert folder.duplicates["z.mp4"] == ("of a.mp4", 0.0)
    assert all(score is not None and 0 <= score < 4 for _, score in folder.duplicates.values())


def test_a_part_of_a_video_and_a_folder_of_images_are_hashed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = tmp_path / "videos"
    image_folder(videos / "a", 24)
    image_folder(videos / "b", 24)
    folder = Folder(tmp_path, frames_fps=25.0)
    folder.run(monkeypatch)
    assert folder.duplicates == {"b": ("of a", 0.0)}

    halves = Folder(tmp_path / "halves", labels=f"{tmp_path}/halves/parts.csv")
    frames = scene(0)[:12] + scene(1)[:12]
    halves.videos.mkdir(parents=True)
    write(halves.videos / "two.mkv", "ffv1", "yuv444p", 24, (96, 128), frames=frames)
    rows = ["path,label,start_s,end_s", "two.mkv,x,0,0.47", "two.mkv,x,0.48,", "two.mkv,x,0,0.46"]
    (tmp_path / "halves/parts.csv").write_text("\n".join(rows))
    halves.run(monkeypatch)
    assert len(halves.hashed) == 3 and len(halves.duplicates) == 1


def test_only_what_changed_is_hashed_and_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(tmp_path)
    paths = [made(folder.videos / f"{n:02d}.mp4", n) for n in range(12)]
    (folder.videos / "07-copy.mp4").write_bytes(paths[7].read_bytes())
    assert len(folder.run(monkeypatch)) == 7 and len(folder.hashed) == 13
    assert folder.duplicates == {"07.mp4": ("of 07-copy.mp4", 0.0)}
    assert folder.run(monkeypatch) == set() and folder.hashed == []

    made(folder.videos / "03.mp4", 103)
    assert len(folder.run(monkeypatch)) == 1 and folder.hashed == ["03.mp4"]

    # Without the copy, the other one is kept; both shards change, and one is removed.
    (folder.videos / "07-copy.mp4").unlink()
    assert 1 <= len(folder.run(monkeypatch)) <= 3 and not folder.duplicates
    hashed = {file.stem for file in (tmp_path / "perceptual_hashes").iterdir()}
    assert hashed == {marker.name for marker in folder.markers}


def test_what_cannot_be_hashed_is_tried_again_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(tmp_path, val_fraction=0.0)
    made(folder.videos / "a.mp4", 0)
    (folder.videos / "text.mp4").write_text("no video")
    folder.run(monkeypatch)
    assert len(folder.hashed) == 2
    folder.run(monkeypatch)
    assert folder.hashed == []
    folder.config = replace(folder.config, retry_failed=True)
    folder.run(monkeypatch)
    assert folder.hashed == ["text.mp4"]
    # A file that is not JSON is made again.
    [hashed] = (tmp_path / "perceptual_hashes").iterdir()
    hashed.write_text("[]")
    folder.run(monkeypatch)
    assert sorted(folder.hashed) == ["a.mp4", "text.mp4"]


def test_a_video_beyond_the_limits_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That a hash took too long this time is not recorded as if there were none."""
    folder = Folder(tmp_path, val_fraction=0.0)
    made(folder.videos / "a.ts", 0)
    (folder.videos / "b.ts").write_bytes((folder.videos / "a.ts").read_bytes())
    sound = folder.config
    folder.config = replace(sound, timeout_s=1e-6)
    folder.run(monkeypatch)
    assert not folder.duplicates
    assert "2 videos have no perceptual hash" in capsys.readouterr().out
    folder.config = sound
    folder.run(monkeypatch)
    assert folder.hashed == ["a.ts", "b.ts"] and folder.duplicates == {"b.ts": ("of a.ts", 0.0)}
    assert "no perceptual hash" not in capsys.readouterr().out


def test_a_long_video_has_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as for its clips: for each minute that is begun, --timeout-s."""
    allowed = []

    class Process:
        def run(self, work, request, deadline, read):
            yield VideoInfo(601.0, 25.0, 128, 96, "h264")
            allowed.append(deadline.allowed_s)
            yield bytes(perceptual_hash.HASH_BYTES)

    folder = Folder(tmp_path, val_fraction=0.0)
    made(folder.videos / "a.ts", 0)
    monkeypatch.setattr(perceptual_hash, "decoding_process", lambda max_memory_gb: Process())
    [plan] = page.plan_shards(folder.config)
    perceptual_hash.hash_shard({"plan": plan, "hashes": str(tmp_path / "h"), "retry": False})
    assert allowed == [11 * folder.config.timeout_s]
