"""Sharding: where clips start, what they are called, and what becomes of each video."""

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from pipelines import shard_videos as page
from pipelines.config.schema import ShardVideos
from pipelines.io import shards, video
from pipelines.io.manifest import Account, Source
from pipelines.io.shards import Sample, ShardWriter
from pipelines.shard_videos import Clip, ClipCutter, ClipSpec, ShardPlan
from vqvdm.errors import UserError

SPEC = ClipSpec(frames=4, size=16, stride=4, rates=(None,), classes=("a", "b"), hash="spec")


def source(path: Path, label: str | None = "b") -> Source:
    return Source(f"b/{path.name}", str(path), 1, None, 1, label, "train")


def write(path: Path, count: int, codec: str = "libx264", **options: str) -> Path:
    """A video of noise at 16 frames a second."""
    noise = np.random.default_rng(0).integers(0, 256, (count, 32, 48, 3), np.uint8)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=16)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = 32, 48
        stream.pix_fmt, stream.thread_count = "yuv420p", 1
        for frame in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def shard(video: Source, folder: Path, spec: ClipSpec = SPEC) -> tuple[Account, list[Sample]]:
    """The account of a video, and the clips that came of it in order of time."""
    with ShardWriter(str(folder), "train-000000") as writer:
        account = page.shard_video(video, spec, writer)
        marker = writer.publish([video.id], spec.hash, "plan", {})
    samples = shards.read_shard(str(folder), marker, "shard_videos")
    return account, sorted(samples, key=lambda s: json.loads(s.members["json"])["start_s"])


@pytest.mark.parametrize(
    ("stride", "rate", "starts"),
    [
        (3, None, [0, 3, 6, 9, 12]),
        (4, None, [0, 4, 8, 12]),
        (6, None, [0, 6, 12]),
        (2, 8.0, [0, 2, 4]),
        (12, 32.0, [0, 12, 24]),
    ],
)
def test_where_clips_start(stride: int, rate: float | None, starts: list[int]) -> None:
    cutter, clips = ClipCutter(replace(SPEC, stride=stride), rate, 16.0), list[Clip]()
    for index in range(16):
        clips += cutter.push(index / 16, np.full((2, 2, 3), index, np.uint8))
    clips += cutter.finish()
    assert [clip.start_frame for clip in clips] == starts
    for clip in clips:
        assert clip.fps == (rate or 16.0)
        shown = (clip.start_frame + np.arange(4)) * 16 // clip.fps
        np.testing.assert_array_equal(clip.frames_THWC[:, 0, 0, 0], shown)


def test_keys_name_the_path_the_span_and_the_rate(tmp_path: Path) -> None:
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    a, b = source(tmp_path / "a.mp4"), source(tmp_path / "b.mp4")
    clips = [Clip(frames, 8.0, 0), Clip(frames, 8.0, 4), Clip(frames, 16.0, 0)]
    keys = {page.clip_key(video, clip, SPEC) for video in (a, b) for clip in clips}
    assert len(keys) == 6 and not any("." in key for key in keys)
    moved = replace(a, uri="s3://bucket/b/a.mp4", mtime_ns=2, label="a", split="val")
    assert page.clip_key(moved, clips[0], SPEC) == page.clip_key(a, clips[0], SPEC)


def test_an_ok_video(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", 13)
    account, samples = shard(source(path), tmp_path / "clips", replace(SPEC, rates=(16.0, 8.0)))
    assert (account.status, account.reason, account.clips) == ("ok", None, 4)
    assert (account.fps, account.width, account.height) == (16.0, 48, 32)
    about = [json.loads(sample.members["json"]) for sample in samples]
    spans = sorted((a["fps"], a["start_s"]) for a in about)
    assert spans == [(8.0, 0.0), (16.0, 0.0), (16.0, 0.25), (16.0, 0.5)]
    assert {(a["label"], a["class_index"], a["source"]) for a in about} == {("b", 1, "b/a.mp4")}
    whole = [frame for _, frame in video.read_frames(str(path), 16)]
    np.testing.assert_array_equal(video.decode_clip(samples[-1].members["mp4"]), whole[8:12])


def test_rejected_videos(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video" * 99)
    short = source(write(tmp_path / "short.mp4", 3), None)
    assert shard(short, tmp_path / "0")[0].reason == "too_short"
    account, clips = shard(source(tmp_path / "text.mp4"), tmp_path / "1")
    assert account == Account("rejected", "unreadable", 0) and not clips


def test_a_video_that_went_away_is_missing(tmp_path: Path) -> None:
    account, _ = shard(source(tmp_path / "gone.mp4"), tmp_path / "clips")
    assert account == Account("rejected", "missing", 0)


def test_a_server_that_does_not_answer_rejects_no_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(kind: type[OSError]) -> None:
        def get_file(*_: object, **__: object) -> None:
            raise kind("trouble")

        monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.get_file", get_file)

    elsewhere = replace(source(tmp_path / "a.mp4"), uri="memory://videos/a.mp4")
    fail(PermissionError)
    assert shard(elsewhere, tmp_path / "0")[0] == Account("rejected", "no_permission", 0)
    fail(ConnectionResetError)
    with pytest.raises(UserError, match="run the same command again"):
        shard(elsewhere, tmp_path / "1")


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.avi", "ffv1"), ("a.avi", "mpeg4")]
)
def test_clips_before_the_damage_are_kept(tmp_path: Path, name: str, codec: str) -> None:
    options = {"movflags": "+faststart"} if name.endswith("mp4") else {}
    path = write(tmp_path / name, 40, codec, **options)
    _, whole = shard(source(path), tmp_path / "whole")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
    account, clips = shard(source(path), tmp_path / "cut")
    assert (account.status, account.reason, account.clips) == ("partial", "damaged", len(clips))
    assert 2 <= len(clips) < len(whole)
    assert clips == whole[: len(clips)]


def test_a_shard_is_made_once(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    sources = (source(write(tmp_path / "a.mp4", 8)), source(tmp_path / "text.mp4"))
    row = {"plan": ShardPlan(f"{tmp_path}/clips", "train-000000", sources, SPEC), "retry": False}
    first = page.make_shard(row)
    assert first["made"]
    assert page.make_shard(row) == {"marker": first["marker"], "made": False}
    assert page.failures(shards.from_json(first["marker"])) == 1
    assert page.make_shard(row | {"retry": True}) == first
    (tmp_path / "clips/train-000000.tar").write_bytes(b"damage")
    assert page.make_shard(row) == first


def test_of_five_hundred_videos_only_what_changed_is_made_again(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    first = write(tmp_path / "first.mp4", 4).read_bytes()
    other = write(tmp_path / "other.mp4", 9).read_bytes()
    for index in range(500):
        (videos / f"{index}.mp4").write_bytes(first)
    config = ShardVideos(root=str(tmp_path), labels="none", frames=4, size=16)

    def made() -> set[str]:
        rows = [page.make_shard({"plan": p, "retry": False}) for p in page.plan_shards(config)]
        return {shards.from_json(row["marker"]).name for row in rows if row["made"]}

    def written() -> dict[str, tuple[int, int]]:
        tars = (tmp_path / "clips").glob("*.tar")
        return {tar.stem: (tar.stat().st_mtime_ns, tar.stat().st_size) for tar in tars}

    assert len(made()) == 9 and made() == set()
    changes = [
        (lambda: (videos / "77.mp4").write_bytes(other), 1),
        (lambda: (videos / "another.mp4").write_bytes(first), 3),
        (lambda: (videos / "another.mp4").unlink(), 3),
    ]
    for change, most in changes:
        before = written()
        change()
        touched = made()
        assert 1 <= len(touched) <= most
        after = written()
        assert {name for name in after if before.get(name) != after[name]} == touched
        assert made() == set()


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    for index in range(10):
        place = tmp_path / f"videos/{'ab'[index % 2]}/{index}.mp4"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    config = ShardVideos(root=str(tmp_path), dry_run=True, limit=6, val_fraction=0.0)
    assert page.shard_videos(config) == "would cut 6 videos of 2 classes into 1 shards"
    assert [entry.name for entry in tmp_path.iterdir()] == ["videos"]
