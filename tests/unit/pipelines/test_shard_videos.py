"""Sharding: where clips start, what they are called, and the outcome of each video."""

import gc
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipelines import shard_videos as page
from pipelines.io import checksums, disk, lock, shards, storage
from pipelines.io.markers import Marker
from pipelines.io.shards import Sample, ShardWriter
from pipelines.sharding import clip_shards, finished, manifest, marker_cache
from pipelines.sharding.clip_shards import (
    DecodeLimits,
    ShardPlan,
    VideoTask,
    clip_key,
    decoding_process,
    make_shard,
)
from pipelines.sharding.clips import (
    SCORES,
    ClipSpec,
    CutRequest,
    EncodedClip,
    Outcome,
    cut_video,
)
from pipelines.sharding.manifest import Account, Source
from pipelines.sharding.near_duplicates import compare
from pipelines.sharding.perceptual_hash import hash_shard, hash_video
from pipelines.sharding.plans import Plans
from pipelines.sharding.settings import Filters, Limits, ShardVideos
from pipelines.sharding.sources import LocalVideos
from pipelines.video import encoder as video
from pipelines.video.header import VideoInfo, probe
from pipelines.video.reasons import FAILURES
from tests import bad_work
from tests.odd_videos import (
    CODECS,
    COUNT,
    KEY_EVERY,
    KINDS,
    corrupt,
    cut,
    image_folder,
    is_upright,
    number_of,
    picture,
    plain,
    with_clock_jump,
    write,
)
from vqvdm.errors import IncompleteError, UserError

SPEC = ClipSpec(frames=4, size=64, stride=4, rates=(None,), classes=("a", "b"))
DECODE_LIMITS = DecodeLimits(timeout_s=30.0)


def source(path: Path, label: str | None = "b") -> Source:
    return Source(f"b/{path.name}", str(path), 1, None, 1, label, "train")


def shard(video: Source, folder: Path, spec: ClipSpec = SPEC) -> tuple[Account, list[Sample]]:
    """The account of a video, and the clips that came of it in order of time."""
    plan = ShardPlan(str(folder), "train-000000", (video,), spec, DECODE_LIMITS)
    marker = Marker.from_json(make_shard({"plan": plan, "retry": False, "verify": True})["marker"])
    [(_, account)] = manifest.from_marker(marker.details)
    samples = shards.read_shard(str(folder), marker, "shard_videos")
    return account, sorted(samples, key=lambda s: json.loads(s.members["json"])["start_s"])


def shown(samples: list[Sample]) -> list[list[int]]:
    """The numbers of the frames of each clip, after a check of their content."""
    clips = [video.decode_clip(sample.members["mkv"]) for sample in samples]
    assert all(is_upright(frame) for clip in clips for frame in clip)
    return [[number_of(frame) for frame in clip] for clip in clips]


@pytest.mark.long
@pytest.mark.parametrize("name", KINDS)
def test_odd_videos(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    account, samples = shard(source(kind.make(tmp_path / kind.name)), tmp_path / "clips")
    assert (account.status, account.reason) == (kind.status, kind.reason), account
    clips = shown(samples)
    if kind.status == "ok":
        assert clips == [[n, n + 1, n + 2, n + 3] for n in range(0, COUNT, 4)]
        assert account.frames == COUNT
    else:
        assert not clips


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_videos(name: str, share: float, tmp_path: Path) -> None:
    path = cut(plain(tmp_path / name), share)
    account, samples = shard(source(path), tmp_path / "clips")
    clips = shown(samples)
    assert clips == [[n, n + 1, n + 2, n + 3] for n in range(0, 4 * len(clips), 4)]
    if share == 0.1 and not clips:
        assert account.status == "rejected"
        assert account.reason in ("unreadable", "damaged", "no_frame_size", "too_short")
    else:
        assert (account.status, account.reason) == ("partial", "damaged")
        assert share * 10 - 4 <= len(clips) < 10


# VP9 and GIF decode noise without complaint; WMV's index leads past it.
@pytest.mark.parametrize("name", sorted(CODECS.keys() - {"a.webm", "a.gif", "a.wmv"}))
def test_clips_around_damage_are_kept(name: str, tmp_path: Path) -> None:
    whole = dict(enumerate(clip_frames(plain(tmp_path / name), tmp_path / "whole")))
    account, samples = shard(source(corrupt(tmp_path / name)), tmp_path / "clips")
    assert (account.status, account.reason) == ("partial", "damaged")
    clips = shown(samples)
    assert clips[0][0] == 0 and clips[-1][-1] >= COUNT - KEY_EVERY
    for clip, sample in zip(clips, samples, strict=True):
        assert clip == list(range(clip[0], clip[0] + 4))
        for number, frame in zip(clip, video.decode_clip(sample.members["mkv"]), strict=True):
            np.testing.assert_array_equal(frame, whole[number])


def clip_frames(path: Path, folder: Path) -> list[video.Frames]:
    _, samples = shard(source(path), folder)
    return [frame for sample in samples for frame in video.decode_clip(sample.members["mkv"])]


@pytest.mark.parametrize(
    ("span_s", "expected"),
    [
        ((0.0, None), [0, *[1] * 15, 2, 3, 4]),
        ((1.0, 9.0), [*[1] * 14, 2, 3]),
        ((0.0, 4.0), [0, *[1] * 7]),
        ((0.0, 8.05), [0, *[1] * 15, 2]),
    ],
)
def test_frames_that_stand_for_seconds(
    span_s: tuple[float, float | None], expected: list[int], tmp_path: Path
) -> None:
    """At two frames a second: 0 and 1 within the first tenth of a second, 2 after eight."""
    path = write(tmp_path / "a.mp4", "libx264", count=5, times=[0, 100, 8000, 8500, 9000])
    spec = replace(SPEC, rates=(2.0,), frames=1, stride=1)
    request = CutRequest(str(path), spec, None, *span_s)
    clips = [event for event in cut_video(request) if isinstance(event, EncodedClip)]
    shown = [number_of(video.decode_clip(clip.video)[0]) for clip in clips]
    assert shown == expected
    start_s = span_s[0]
    assert [clip.start_s for clip in clips] == [start_s + n / 2 for n in range(len(clips))]


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    """Root may read everything, so the test drops its rights for a moment."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.mp4")
        path.write_bytes(b"secret")
        path.chmod(0)
        Path(folder).chmod(0o755)
        plan = ShardPlan(folder, "train-000000", (source(path),), SPEC, DECODE_LIMITS)
        with ShardWriter(str(tmp_path), "train-000000") as writer:
            own_id = os.geteuid()
            if own_id == 0:
                os.seteuid(65534)
            try:
                account = VideoTask(source(path), plan, writer).run(LocalVideos())
            finally:
                os.seteuid(own_id)
    assert (account.status, account.reason) == ("rejected", "no_permission")


def test_keys_name_the_path_the_span_and_the_rate(tmp_path: Path) -> None:
    a, b = source(tmp_path / "a.mp4"), source(tmp_path / "b.mp4")
    clips = [EncodedClip(b"", *span) for span in ((8.0, 0, 0.0), (8.0, 4, 0.5), (16.0, 0, 0.0))]
    keys = {clip_key(video, clip, SPEC) for video in (a, b) for clip in clips}
    assert len(keys) == 6 and not any("." in key for key in keys)
    moved = replace(a, uri="s3://bucket/b/a.mp4", mtime_ns=2, label="a", split="val")
    assert clip_key(moved, clips[0], SPEC) == clip_key(a, clips[0], SPEC)


def test_an_ok_video(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", "libx264", count=13)
    spec = replace(SPEC, rates=(25.0, 12.5, 6.25), frames=2, stride=2)
    account, samples = shard(source(path), tmp_path / "clips", spec)
    assert (account.status, account.reason, account.clips) == ("ok", None, 6 + 3 + 2)
    assert (account.fps, account.width, account.height) == (25.0, 96, 64)
    assert (account.frames, account.codec) == (13, "h264")
    metadata = [json.loads(sample.members["json"]) for sample in samples]
    assert {(a["label"], a["class_index"], a["source"]) for a in metadata} == {("b", 1, "b/a.mp4")}
    steps = {25.0: 1, 12.5: 2, 6.25: 4}
    for a, numbers in zip(metadata, shown(samples), strict=True):
        first, step = round(a["start_s"] * 25), steps[a["fps"]]
        assert numbers == [first, first + step]


def test_a_part_of_a_video_at_its_own_rate(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", "libx264")
    part = replace(source(path), start_s=0.4, end_s=1.2, fps=12.5)
    account, samples = shard(part, tmp_path / "clips")
    assert (account.status, account.clips, account.frames) == ("ok", 2, 20)
    assert shown(samples) == [[10, 12, 14, 16], [18, 20, 22, 24]]
    assert [json.loads(s.members["json"])["start_s"] for s in samples] == [0.4, 0.72]
    assert part.id != source(path).id


def test_a_pause_is_filled_at_a_steady_rate_but_not_a_long_one(tmp_path: Path) -> None:
    times = [40 * n + 400 * (n >= 20) + 15_000 * (n >= 30) for n in range(40)]
    path = write(tmp_path / "a.mp4", "libx264", times=times)
    _, samples = shard(source(path), tmp_path / "clips", replace(SPEC, rates=(25.0,)))
    clips = shown(samples)
    assert [n for clip in clips[:9] for n in clip] == [*range(19), *[19] * 11, *range(20, 26)]
    assert clips[-2:] == [[30, 31, 32, 33], [34, 35, 36, 37]]
    assert len(clips) == 12


def test_what_is_wrong_is_told_without_the_place_of_a_copy(tmp_path: Path) -> None:
    """Each fetch has a folder of its own: the same videos would give other markers each time."""
    told = set()
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        broken = tmp_path / folder / "a.mp4"
        broken.write_text("no video")
        account, _ = shard(source(broken), tmp_path / folder / "clips")
        assert account.reason == "unreadable"
        told.add(account.detail)
    (detail,) = told
    assert detail and "'b/a.mp4'" in detail and str(tmp_path) not in detail


def test_a_folder_of_images(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "cloud", 12)
    (folder / "frame_7.jpg").write_bytes(b"no picture")
    images = replace(source(folder), frames_fps=12.5)
    account, samples = shard(images, tmp_path / "clips")
    assert (account.status, account.reason, account.detail) == (
        "partial",
        "damaged",
        "frame_7.jpg does not decode after 0.56 s, up to 0.64 s",
    )
    assert (account.codec, account.fps, account.duration_s) == ("images", 12.5, 12 / 12.5)
    assert shown(samples) == [[0, 1, 2, 3], [8, 9, 10, 11]]


@pytest.mark.parametrize("starts_s", [(0, 8000), (8000, 0)])
def test_joined_recordings_are_as_long_as_they_play(
    starts_s: tuple[int, int], tmp_path: Path
) -> None:
    """The clock jumps by hours, which the header takes for the length."""
    path = with_clock_jump(tmp_path / "a.ts", starts_s)
    duration_s = probe(str(path)).duration_s
    assert duration_s and duration_s > SPEC.limits.max_duration_s
    account, samples = shard(source(path), tmp_path / "clips")
    # A counter of its packets shows that they were joined.
    assert (account.status, account.reason) == ("partial", "damaged")
    assert {clip[0] for clip in shown(samples)} >= {0, 4, 8, 24, 28, 32, 36}
    # What is played, at most ten seconds of a jump included, is limited still.
    brief = replace(SPEC, limits=Limits(max_duration_s=10.5))
    account, samples = shard(source(path), tmp_path / "brief", brief)
    assert (account.status, account.reason, samples) == ("rejected", "too_long", [])
    # Its copies are found.
    assert len([*hash_video(CutRequest(str(path), SPEC))]) == 2


def test_images_that_are_hidden_or_damaged_cost_no_others(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "cloud", 12)
    (folder / "._frame_1.jpg").write_bytes(b"what macOS knows of it")
    (folder / "frame_0.jpg").write_bytes(b"no picture")
    images = replace(source(folder), frames_fps=12.5)
    account, samples = shard(images, tmp_path / "clips")
    assert (account.status, account.reason) == ("partial", "damaged")
    assert (account.detail, account.width) == ("frame_0.jpg does not decode, up to 0.08 s", 96)
    assert shown(samples) == [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("height", "fps", "length_s", "minutes"),
    [
        (360, 25.0, 59.0, 1),
        (1080, 30.0, 61.0, 2),
        (2160, 60.0, 60.0, 8),
        (4320, 30.0, 60.0, 16),
        (1080, None, 0.0, 1),
    ],
)
def test_larger_and_faster_videos_have_more_time(
    height: int, fps: float | None, length_s: float, minutes: int
) -> None:
    info = VideoInfo(length_s, fps, height * 16 // 9, height, "hevc")
    assert DecodeLimits(timeout_s=100.0).allowed_s(info, length_s) == 100 * minutes


@pytest.mark.long
def test_a_hanging_decoder_costs_one_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", "libx264", count=8)
    plan = ShardPlan(str(tmp_path), "train-000000", (), SPEC, replace(DECODE_LIMITS, timeout_s=3.0))
    for work, reason in bad_work.REASONS.items():
        with ShardWriter(str(tmp_path), "train-000000") as writer:
            with monkeypatch.context() as patch:
                patch.setattr(clip_shards, "cut_video", work)
                account = VideoTask(source(path), plan, writer).run(LocalVideos())
            assert (account.status, account.reason, account.clips) == ("rejected", reason, 0)
            assert account.width == 96
            assert not writer.keys  # The clip before the time-out is removed.
            assert VideoTask(source(path), plan, writer).run(LocalVideos()).status == "ok"


def test_a_server_that_does_not_answer_rejects_no_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(kind: type[OSError]) -> None:
        def get_file(*_: object, **__: object) -> None:
            raise kind("trouble")

        monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.get_file", get_file)

    elsewhere = replace(source(tmp_path / "a.mp4"), uri="memory://videos/a.mp4")
    fail(PermissionError)
    account, _ = shard(elsewhere, tmp_path / "0")
    assert (account.status, account.reason) == ("rejected", "no_permission")
    fail(ConnectionResetError)
    with pytest.raises(UserError, match="run the same command again"):
        shard(elsewhere, tmp_path / "1")


@pytest.mark.parametrize(
    ("changes", "reason", "score"),
    [
        ({"limits": Limits(max_pixels=6143)}, "too_many_pixels", 6144),
        ({"limits": Limits(max_duration_s=1.5)}, "too_long", 1.6),
        ({"filters": Filters(min_size=65)}, "too_small", 64),
        ({"filters": Filters(min_duration_s=1.7)}, "too_brief", 1.6),
        ({"filters": Filters(min_fps=25.1)}, "low_frame_rate", 25.0),
        ({"filters": Filters(min_motion=99)}, "static", None),
        ({"filters": Filters(min_brightness=200)}, "black", None),
    ],
)
def test_limits_and_filters(
    changes: dict, reason: str, score: float | None, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.mp4", "libx264")
    account, samples = shard(source(path), tmp_path / "clips", replace(SPEC, **changes))
    assert (account.status, account.reason, samples) == ("rejected", reason, [])
    assert account.failed == (reason in FAILURES)
    if score is not None:
        assert account.score == pytest.approx(score)
    else:
        assert len(account.dropped) == 10
        assert account.score == max(clip["score"] for clip in account.dropped) > 0


def test_no_clip_straddles_a_cut(tmp_path: Path) -> None:
    """Two shots; the second begins within what would be a clip."""
    rng = np.random.default_rng(0)
    shots = [rng.integers(0, 256, (8, 12, 3), np.uint8).repeat(8, 0).repeat(8, 1) for _ in "ab"]
    frames = [shots[n >= 10] // 2 + n for n in range(24)]
    path = write(tmp_path / "a.mkv", "ffv1", "yuv444p", count=24, frames=frames)
    _, straddling = shard(source(path), tmp_path / "none")
    _, samples = shard(source(path), tmp_path / "detect", replace(SPEC, scenes="detect"))
    starts = [[json.loads(s.members["json"])["start_s"] for s in c] for c in (straddling, samples)]
    assert starts[0] == [0.0, 0.16, 0.32, 0.48, 0.64, 0.8]
    assert starts[1] == [0.0, 0.16, 0.4, 0.56, 0.72]


def test_letterbox_bars_are_cut_off_on_request(tmp_path: Path) -> None:
    frames = [np.zeros((96, 160, 3), np.uint8) for _ in range(4)]
    for number, frame in enumerate(frames):
        frame[16:80, 32:128] = picture(number)
    path = write(tmp_path / "a.mkv", "ffv1", "yuv444p", count=4, size=(96, 160), frames=frames)
    _, [sample] = shard(source(path), tmp_path / "clips", replace(SPEC, crop_bars=True))
    assert shown([sample]) == [[0, 1, 2, 3]]
    plain_path = write(tmp_path / "b.mp4", "libx264")
    _, samples = shard(source(plain_path), tmp_path / "plain", replace(SPEC, crop_bars=True))
    assert len(shown(samples)) == 10


def test_a_filter_takes_single_clips_out(tmp_path: Path) -> None:
    frames = [np.full((64, 96, 3), 0 if n < 8 else 10 * n, np.uint8) for n in range(16)]
    frames[12:] = [frames[12]] * 4
    path = write(tmp_path / "a.mkv", "ffv1", "yuv444p", count=16, frames=frames)
    filters = Filters(min_motion=0.5, min_brightness=8)
    account, samples = shard(source(path), tmp_path / "clips", replace(SPEC, filters=filters))
    assert (account.status, account.clips, len(samples)) == ("ok", 1, 1)
    assert [(d["start_s"], d["reason"], d["score"]) for d in account.dropped] == [
        (0.0, "black", 0.0),
        (0.16, "black", 0.0),
        (0.48, "static", 0.0),
    ]


@pytest.mark.parametrize("filters", [Filters(), Filters(min_motion=0.5, min_brightness=8)])
def test_scores_stand_beside_what_filters_decide(filters: Filters, tmp_path: Path) -> None:
    """Black, black, brightening by 10 a frame, still: kept or not, each has its scores."""
    frames = [np.full((64, 96, 3), 0 if n < 8 else 10 * n, np.uint8) for n in range(16)]
    frames[12:] = [frames[12]] * 4
    path = write(tmp_path / "a.mkv", "ffv1", "yuv444p", count=16, frames=frames)
    spec = replace(SPEC, filters=filters, scores=SCORES)
    account, samples = shard(source(path), tmp_path / "clips", spec)
    found = [(s["start_s"], s["brightness"], s["motion"]) for s in account.scores]
    wanted = [(0.0, 0.0, 0.0), (0.16, 0.0, 0.0), (0.32, 95.0, 10.0), (0.48, 120.0, 0.0)]
    np.testing.assert_allclose(found, wanted, atol=1)  # FFV1 keeps rounded chroma and luma.
    kept = [2] if filters.min_motion else [0, 1, 2, 3]
    assert [json.loads(s.members["json"])["scores"] for s in samples] == [
        {name: account.scores[n][name] for name in SCORES} for n in kept
    ]
    # Flat frames have nothing sharp; brightness is one of the three things that may change.
    found = [(s["sharpness"], s["change"]) for s in account.scores]
    np.testing.assert_allclose(found, [(0, 0), (0, 0), (0, 10 / 3), (0, 0)], atol=0.5)
    assert len(account.dropped) == 4 - len(kept)
    plain, others = shard(source(path), tmp_path / "plain", replace(spec, scores=()))
    assert plain == replace(account, scores=[])
    assert [s.members["mkv"] for s in others] == [s.members["mkv"] for s in samples]
    writer = manifest.ManifestWriter(tmp_path / "plain")
    writer.add("train-000000", [(source(path), account)])
    writer.publish(f"{tmp_path}/videos.parquet")
    [row] = pq.read_table(tmp_path / "videos.parquet").to_pylist()
    assert row["scores"] == account.scores


def test_the_hash_of_how_clips_are_cut_is_the_one_recorded_before() -> None:
    assert SPEC.hash == replace(SPEC, classes=()).hash == "3d837bbbc48484a2"
    many = replace(SPEC, rates=(8.0, None), scenes="detect", crop_bars=True, scores=SCORES)
    many = replace(many, frames=16, size=128, stride=8, filters=Filters(min_fps=1))
    assert many.hash == many.recorded["hash"] == "6b522e7c9ce85207"


def test_indices_and_markers_are_as_before_there_were_scores(tmp_path: Path) -> None:
    spec = SPEC.recorded
    assert "scores" not in spec and "min_fps" not in spec["filters"]
    assert ShardVideos().recipe().keys().isdisjoint({"scores", "columns"})
    # What a shard is made from has the columns of its videos already.
    assert ShardVideos(columns="none").recipe() == ShardVideos().recipe()
    path = write(tmp_path / "a.mp4", "libx264", count=8)
    plan = ShardPlan(f"{tmp_path}/clips", "train-000000", (source(path),), SPEC)
    marker = Marker.from_json(make_shard({"plan": plan, "retry": False, "verify": True})["marker"])
    [video] = marker.details["videos"]
    assert video["source"].keys() == {
        "path", "uri", "size", "etag", "mtime_ns", "label", "split", "start_s", "end_s", "fps",
        "frames_fps",
    }  # fmt: skip
    assert "scores" not in video["account"]
    assert replace(SPEC, scores=SCORES).cut["scores"] == list(SCORES)
    assert replace(SPEC, filters=Filters(min_fps=1)).cut["filters"]["min_fps"] == 1


def test_a_shard_is_made_once(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    sources = (source(write(tmp_path / "a.mp4", "libx264", count=8)), source(tmp_path / "text.mp4"))
    row = {
        "plan": ShardPlan(f"{tmp_path}/clips", "train-000000", sources, SPEC),
        "retry": False,
        "verify": True,
    }
    first = make_shard(row)
    assert first["made"]
    assert make_shard(row) == first | {"made": False}
    assert clip_shards.failures(Marker.from_json(first["marker"])) == 1
    assert make_shard(row | {"retry": True}) == first
    (tmp_path / "clips/train-000000.tar").write_bytes(b"damage")
    assert make_shard(row) == first


def test_classes_are_numbered_anew_only_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is decoded again."""
    plan = ShardPlan(
        str(tmp_path / "clips"),
        "train-000000",
        (source(plain(tmp_path / "a.mp4")),),
        SPEC,
        DECODE_LIMITS,
    )
    row = {"plan": plan, "retry": False, "verify": True}
    before = Marker.from_json(make_shard(row)["marker"])
    clips = list(shards.read_shard(plan.folder, before, "shard_videos"))
    assert {json.loads(sample.members["json"])["class_index"] for sample in clips} == {1}

    monkeypatch.setattr(clip_shards, "decoding_process", None)
    fewer = replace(plan, spec=replace(SPEC, classes=("b",)))
    published = replace(fewer, numberings=frozenset({plan.numbering}))
    assert not make_shard(row | {"plan": published})["made"]
    renumbered = row | {"plan": fewer}
    made = make_shard(renumbered)
    assert made["made"]
    after = Marker.from_json(made["marker"])
    assert (after.keys, after.details["videos"]) == (before.keys, before.details["videos"])
    for old, new in zip(clips, shards.read_shard(plan.folder, after, "shard_videos"), strict=True):
        assert new.members["mkv"] == old.members["mkv"]
        metadata = json.loads(old.members["json"]) | {"class_index": 0}
        assert json.loads(new.members["json"]) == metadata
    assert not make_shard(renumbered)["made"]


def test_numbers_of_classes_and_further_parts_decode_nothing_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of a video, and shards without clips; the bytes are those of a shard made at once."""
    whole = source(plain(tmp_path / "a.mp4"))
    parts = [replace(whole, start_s=n / 2, end_s=n / 2 + 0.5) for n in range(3)]
    bad = source(tmp_path / "bad.mp4", "c")
    (tmp_path / "bad.mp4").write_text("a shopping list")
    decoded: list[str] = []
    decode = VideoTask._decode

    def counted(task: VideoTask, path: str) -> None:
        decoded.append(task.source.id)
        decode(task, path)

    monkeypatch.setattr(VideoTask, "_decode", counted)

    def made(place: str, sources: list[Source], classes: tuple[str, ...]) -> tuple[bytes, ...]:
        spec = replace(SPEC, classes=classes)
        plan = ShardPlan(str(tmp_path / place), "train-000000", tuple(sources), spec, DECODE_LIMITS)
        assert make_shard({"plan": plan, "retry": False, "verify": False})["made"]
        kinds = ("tar", "json")
        return tuple((tmp_path / place / f"train-000000.{kind}").read_bytes() for kind in kinds)

    for place, sources, further in (("parts", parts[:2], parts[2]), ("failed", [bad], whole)):
        made(place, sources, ("b", "c"))
        assert sorted(decoded) == sorted(s.id for s in sources)
        decoded.clear()
        again = made(place, sources, ("b",))
        assert not decoded
        grown = made(place, [*sources, further], ("b",))
        assert decoded == [further.id]
        assert again == made(f"{place}, at once", sources, ("b",))
        assert grown == made(f"{place}, all at once", [*sources, further], ("b",))
        decoded.clear()


def test_a_file_is_fetched_once_for_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a store and from a server that lacks it, also where some parts are there already."""
    files = MemoryFileSystem()
    files.pipe("/house/a.mp4", plain(tmp_path / "a.mp4").read_bytes())
    fetched: list[str] = []
    get_file = MemoryFileSystem.get_file

    def counted(fs: MemoryFileSystem, path: str, *arguments: Any, **options: Any) -> None:
        fetched.append(Path(path).name)
        get_file(fs, path, *arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", counted)
    wholes = [replace(source(Path(n)), uri=f"memory://house/{n}") for n in ("a.mp4", "gone.mp4")]
    parts = [replace(w, start_s=n / 2, end_s=n / 2 + 0.5) for w in wholes for n in range(3)]

    def make(place: str, sources: list[Source]) -> Marker:
        folder = str(tmp_path / place)
        plan = ShardPlan(folder, "train-000000", tuple(sources), SPEC, DECODE_LIMITS)
        row = make_shard({"plan": plan, "retry": False, "verify": False})
        return Marker.from_json(row["marker"])

    try:
        marker = make("some", [*parts[:2], *parts[3:5]])
        assert fetched == ["a.mp4", "gone.mp4"]
        grown = make("some", parts)
        assert fetched == ["a.mp4", "gone.mp4"] * 2
        assert grown == make("all", parts)
        assert fetched == ["a.mp4", "gone.mp4"] * 3
    finally:
        files.rm("/house", recursive=True)
    found = [account.reason for _, account in manifest.from_marker(grown.details)]
    assert found == [None] * 3 + ["missing"] * 3
    assert len(grown.keys) == 9 and len(marker.keys) == 6
    # Each alone gives the same clips.
    alone = [make(f"{n}", [replace(part, uri=str(tmp_path / "a.mp4"))]).keys
             for n, part in enumerate(parts[:3])]  # fmt: skip
    assert sorted(key for keys in alone for key in keys) == grown.keys


def test_what_failed_is_tried_again_in_a_shard_that_was_published(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("a shopping list")
    plan = ShardPlan(str(tmp_path / "clips"), "train-000000", (source(path),), SPEC, DECODE_LIMITS)
    row = {"plan": plan, "retry": False, "verify": True}
    assert not Marker.from_json(make_shard(row)["marker"]).keys
    plain(path)
    again = Marker.from_json(make_shard(row | {"retry": True})["marker"])
    assert len(again.keys) == COUNT // 4


class Unlogged:
    """Stands for a run in MLflow."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


ON_WORKERS = page.on_workers


class Cutting:
    """A folder of videos of two classes, cut again and again by jobs whose tasks run one after the
    other in this process; counts what is decoded."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.videos = place / "videos"
        for label, count in (("berry", 6), ("cherry", 4)):
            for number in range(count):
                self.add(label, number, 8 + 4 * number)
        self.config = ShardVideos(
            root=str(place / "root"), videos=str(self.videos), frames=4, size=16, stride=4,
            videos_per_shard=4, val_fraction=0.2,
        )  # fmt: skip
        self.made: list[str] = []
        self.decoded: list[str] = []
        self.asked: set[str] = set()
        """Shards that workers were given."""
        self.rounds = page.ROUNDS
        """After how many rounds a job is killed."""
        decode = VideoTask._decode

        def counted(task: VideoTask, path: str) -> None:
            self.decoded.append(task.source.path)
            decode(task, path)

        monkeypatch.setattr(VideoTask, "_decode", counted)
        monkeypatch.setattr(page, "on_workers", self._one_by_one)
        monkeypatch.setattr(page, "join_for_tasks", lambda: None)
        monkeypatch.setattr(page, "run_on_demand", lambda *_: nullcontext(Unlogged))

    def _one_by_one(
        self, work: Callable[[dict], dict], plans: Plans, config: ShardVideos, **columns: Any
    ) -> Iterator[tuple[ShardPlan, dict]]:
        self.asked |= set(plans.places)
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        for plan in plans:
            asked = {"retry": config.retry_failed, "verify": config.verify}
            row = work({"plan": plan, **asked, **columns})
            self.made += [plan.name] * row.get("made", False)
            yield plan, row

    def add(self, label: str, number: int, frames: int) -> None:
        path = self.videos / label / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, "libx264", count=frames)

    def cut(self, **changes: Any) -> tuple[set[str], set[str]]:
        """The shards that are made, and the videos that are decoded."""
        self.config = replace(self.config, **changes)
        self.decoded.clear()
        self.made.clear()
        self.asked.clear()
        self.left = self.rounds
        page.shard_videos(self.config)
        return set(self.made), set(self.decoded)

    def cut_and_killed(self, rounds: int) -> None:
        """Killed after so many rounds."""
        self.rounds = rounds
        with pytest.raises(KeyboardInterrupt):
            self.cut()
        self.rounds = page.ROUNDS

    def rows(self) -> list[dict[str, Any]]:
        return pq.read_table(self.config.workspace.manifest).to_pylist()

    def index(self) -> dict[str, Any]:
        return storage.read_json(f"{self.config.workspace.clips}/index.json")

    def files(self) -> dict[str, bytes]:
        """Everything that was published, but for what holds times."""
        root = Path(self.config.root)
        files = {str(path.relative_to(root)): path for path in sorted(root.rglob("*.*"))}
        timed = ("clips/lock.json", f"clips/{marker_cache.NAME}")
        return {name: path.read_bytes() for name, path in files.items() if name not in timed}

    def numbers(self) -> set[tuple[str, int | None]]:
        """The classes of clips, with the indices that stand beside them."""
        found = set()
        for tar in Path(self.config.workspace.clips).glob("*.tar"):
            reader = shards.ShardReader(str(tar))
            said = [json.loads(reader.member(key, "json")) for key in reader.keys]
            found |= {(clip["label"], clip["class_index"]) for clip in said}
        return found

    def clips(self) -> dict[str, tuple[str, int | None]]:
        """What each clip shows, and how it is labelled."""
        found = {}
        for tar in sorted(Path(self.config.workspace.clips).glob("*.tar")):
            reader = shards.ShardReader(str(tar))
            for key in reader.keys:
                said = json.loads(reader[key]["json"])
                found[key] = (checksums.digest(str(reader[key]["mkv"])), said["label"])
        return found


@pytest.fixture
def cutting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cutting:
    found = Cutting(tmp_path, monkeypatch)
    made, decoded = found.cut()
    assert len(made) >= 3 and len(decoded) == 10
    assert found.cut() == (set(), set())
    return found


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_job_whose_place_was_taken_changes_nothing(
    overwrite: bool, cutting: Cutting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Suspended for longer than its lock lives, it wakes when another job has cut other videos."""
    cutting.add("berry", 9, 12)
    folder = Path(cutting.config.workspace.clips)
    run_plans, before = page.run_plans, cutting.files()

    def taken_meanwhile(*arguments: Any) -> None:
        run_plans(*arguments)
        for name in before:
            if name.startswith("clips/") and not overwrite:
                (folder.parent / name).write_bytes(b"the other's")
        (folder / "val-999999.tar").write_bytes(b"the other's")
        note = storage.read_json(f"{folder}/{lock.NAME}")
        storage.publish_json(note | {"owner": "the other"}, f"{folder}/{lock.NAME}")

    monkeypatch.setattr(page, "run_plans", taken_meanwhile)
    with pytest.raises(UserError, match="another job has taken over"):
        cutting.cut(overwrite=overwrite)
    after = cutting.files()
    assert after["videos.parquet"] == before["videos.parquet"]
    assert after["clips/val-999999.tar"] == b"the other's"
    if not overwrite:
        assert {after[name] for name in before if name.startswith("clips/")} == {b"the other's"}


def test_a_finished_root_needs_no_worker(
    cutting: Cutting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(page, "on_workers", ON_WORKERS)
    monkeypatch.setattr(page, "join_for_tasks", lambda: pytest.fail("joins a cluster"))
    before, listed, walk = cutting.files(), list[str](), disk.walk
    count = lambda path, folders: listed.append(path) or walk(path, folders)  # noqa: E731
    monkeypatch.setattr(disk, "walk", count)
    assert "there already, verified by size and time" in page.shard_videos(cutting.config)
    # To see what is there, and to leave nothing else.
    assert listed.count(cutting.config.workspace.clips) == 2
    assert cutting.files() == before
    for change in ({"verify": True}, {"overwrite": True}):
        with pytest.raises(pytest.fail.Exception, match="joins"):
            page.shard_videos(replace(cutting.config, **change))


def test_a_dry_run_tells_what_is_there_and_what_the_rest_takes(cutting: Cutting) -> None:
    dry, before = replace(cutting.config, dry_run=True), cutting.files()
    assert page.shard_videos(dry).splitlines()[1:] == [
        f"{len(list(Path(cutting.config.workspace.clips).glob('*.tar')))} of the shards are there, "
        f"with {len(cutting.clips())} clips"
    ]
    again = page.shard_videos(replace(dry, overwrite=True)).splitlines()
    assert re.match(r"about \d+ clips, [\d.]+ kB; a minute on ", again[1])
    cutting.add("apple", 0, 12)
    *_, there, rest, basis = page.shard_videos(dry).splitlines()
    assert "of the shards are there" in there and "about" in rest
    assert basis.startswith("estimated from ")
    assert cutting.files() == before


def test_a_dry_run_refuses_what_the_job_refuses(cutting: Cutting) -> None:
    other = replace(cutting.config, dry_run=True, size=32)
    with pytest.raises(UserError, match=r"other settings \(size 16 → 32\): pass --overwrite"):
        page.shard_videos(other)
    assert "about" in page.shard_videos(replace(other, overwrite=True))


@pytest.mark.parametrize("has_hashes", [True, False])
def test_a_dry_run_knows_shards_with_near_duplicates(has_hashes: bool, cutting: Cutting) -> None:
    copy = cutting.videos / "berry/copy.mp4"
    copy.write_bytes((cutting.videos / "berry/5.mp4").read_bytes())
    cutting.cut(overwrite=True, filters=Filters(min_distance=1))
    assert "near_duplicate" in {row["reason"] for row in cutting.rows()}
    if not has_hashes:
        shutil.rmtree(cutting.config.workspace.perceptual_hashes)
    before = cutting.files()
    shards = len(cutting.index()["shards"])
    assert page.shard_videos(replace(cutting.config, overwrite=False, dry_run=True)).splitlines()[
        1:
    ] == [f"{shards} of the shards are there, with {len(cutting.clips())} clips"]
    assert cutting.files() == before


def test_plans_are_made_only_where_there_is_a_marker(
    cutting: Cutting, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans, made = page.plan_shards(cutting.config), list[int]()
    plan_of = Plans.__getitem__
    monkeypatch.setattr(Plans, "__getitem__", lambda p, n: made.append(n) or plan_of(p, n))
    folder = Path(cutting.config.workspace.clips)
    (folder / f"{list(plans.places)[1]}.json").unlink()
    listed = storage.written_below(str(folder))
    found = [plan.name for plan, _ in finished.standing(plans, cutting.config, listed)]
    others = [number for number in range(len(plans)) if number != 1]
    assert made == others and found == [list(plans.places)[number] for number in others]
    shutil.rmtree(folder)
    made.clear()
    assert list(finished.standing(plans, cutting.config, {})) == [] and made == []


def test_a_touched_shard_is_read_and_a_damaged_one_made_again(cutting: Cutting) -> None:
    before = cutting.files()
    first, second, *_ = sorted(Path(cutting.config.workspace.clips).glob("*.tar"))
    first.touch()
    second.write_bytes(b"x" * second.stat().st_size)
    assert cutting.cut()[0] == {second.stem} and cutting.asked == {first.stem, second.stem}
    assert cutting.files() == before


def test_only_shards_with_failures_are_tried_again(cutting: Cutting) -> None:
    bad(cutting)
    cutting.cut()
    assert cutting.cut(retry_failed=True)[1] == {"apple/0.mp4"}
    assert len(cutting.asked) == 1


def test_overwriting_goes_on_where_it_was_killed(
    cutting: Cutting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time that the same command comes again."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(page, "clips_index", killed)
        cutting.cut(size=32, overwrite=True)
    made = {path.name: path.stat().st_mtime_ns for path in clip_tars(cutting)}
    assert made and not storage.exists(cutting.config.workspace.clips + "/index.json")
    assert "of the shards are there" in page.shard_videos(replace(cutting.config, dry_run=True))
    decoded = cutting.cut()[1]
    assert not decoded
    assert {path.name: path.stat().st_mtime_ns for path in clip_tars(cutting)} == made
    # What is finished is made anew.
    assert len(cutting.cut()[1]) == 10
    assert {path.name: path.stat().st_mtime_ns for path in clip_tars(cutting)} != made


def clip_tars(cutting: Cutting) -> list[Path]:
    return sorted(Path(cutting.config.workspace.clips).glob("*.tar"))


def test_hashes_that_are_there_need_no_worker(
    cutting: Cutting, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(cutting.config, overwrite=True, filters=Filters(min_distance=1))
    monkeypatch.setattr(page, "on_workers", ON_WORKERS)
    monkeypatch.setattr(page, "join_for_tasks", lambda: pytest.fail("joins a cluster"))
    plans = page.plan_shards(config)
    folder, asked = config.workspace.perceptual_hashes, {"retry": False}
    hashed = [hash_shard({"plan": plan, "hashes": folder, **asked}) for plan in plans]
    assert all(all(row["hashes"]) for row in hashed)
    found = page.find_near_duplicates(plans, config)
    count = len(plans.sources)
    assert found == compare(plans.places, hashed, count, config.filters.min_distance)
    (cutting.videos / "cherry/0.mp4").write_bytes(b"another")
    with pytest.raises(pytest.fail.Exception, match="joins"):
        page.find_near_duplicates(page.plan_shards(config), config)


def test_only_clips_are_deleted_and_only_where_others_can_be_cut(
    cutting: Cutting, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = [cutting.config.workspace.clips + name for name in ("/cat/a.mp4", "/notes.txt")]
    for uri in kept:
        storage.publish_bytes(b"mine", uri)
    before = cutting.files()

    def lacks() -> None:
        raise UserError("no cluster")

    with monkeypatch.context() as patch:
        patch.setattr(page, "join_for_tasks", lacks)
        with pytest.raises(UserError, match="no cluster"):
            page.shard_videos(replace(cutting.config, size=32, overwrite=True))
    assert cutting.files() == before
    cutting.cut(size=32, overwrite=True)
    assert len(cutting.decoded) == 10
    assert [storage.read_bytes(uri) for uri in kept] == [b"mine", b"mine"]


def test_what_jobs_make_is_no_input(cutting: Cutting, capsys: pytest.CaptureFixture[str]) -> None:
    inside = cutting.videos / "run"
    (inside / "samples/base/apple").mkdir(parents=True)
    write(inside / "samples/base/apple/00000.mp4", "libx264", count=8)
    cutting.cut(root=str(inside))
    assert f"note: {inside}, where jobs publish, is no input" in capsys.readouterr().out
    assert cutting.index()["classes"] == ["berry", "cherry"]
    assert cutting.cut() == (set(), set())
    with pytest.raises(UserError, match=r"lies in .*/run/samples, which jobs fill"):
        cutting.cut(videos=str(inside / "samples/base"))


def test_a_new_class_is_cut_alone(cutting: Cutting) -> None:
    before = cutting.clips()
    cutting.add("apple", 0, 12)
    made, decoded = cutting.cut()
    # Linear hashing moves videos of one other shard at most.
    assert "apple/0.mp4" in decoded and len(decoded) <= 5 and len(made) <= 3
    after = cutting.clips()
    assert before.items() <= after.items() and len(after) == len(before) + 3
    assert page.plan_shards(cutting.config).spec.classes == ("apple", "berry", "cherry")
    assert cutting.cut() == (set(), set())


def test_a_renamed_table_of_labels_and_a_moved_folder_cost_nothing(cutting: Cutting) -> None:
    table = cutting.videos.parent / "one.csv"
    rows = [f"{label}/{n}.mp4,{label}" for label, n in [("berry", 1), ("cherry", 0)]]
    table.write_text("\n".join(["path,label", *rows]))
    cutting.cut(labels=str(table))
    assert cutting.cut() == (set(), set())
    moved = table.rename(table.with_name("other.csv"))
    assert cutting.cut(labels=str(moved)) == (set(), set())
    videos = cutting.videos.rename(cutting.videos.with_name("mount"))
    assert cutting.cut(videos=str(videos)) == (set(), set())
    paths = {"berry/1.mp4", "cherry/0.mp4"}
    assert {row["uri"] for row in cutting.rows()} == {str(videos / path) for path in paths}


def test_another_label_decodes_nothing(cutting: Cutting) -> None:
    table = cutting.videos.parent / "labels.csv"
    paths = sorted(str(p.relative_to(cutting.videos)) for p in cutting.videos.rglob("*.mp4"))
    rows = [f"{path},{'plum' if path == 'berry/1.mp4' else path[:-6]}" for path in paths]
    table.write_text("\n".join(["path,label", *rows]))
    before = cutting.clips()
    made, decoded = cutting.cut(labels=str(table))
    assert (len(made), decoded) == (1, set())
    after = cutting.clips()
    changed = {key for key in before if before[key] != after[key]}
    assert before.keys() == after.keys() and len(changed) == 3
    assert {after[key][1] for key in changed} == {"plum"}


def test_another_split_or_limit_decodes_what_changes_shards_at_most(cutting: Cutting) -> None:
    before = cutting.clips()
    earlier = {plan.name: plan.sources for plan in page.plan_shards(cutting.config)}
    made, decoded = cutting.cut(val_fraction=0.4)
    assert cutting.clips() == before
    new, changed = set[str](), set[str]()
    for plan in page.plan_shards(cutting.config):
        there = {source.path for source in earlier.get(plan.name, ())}
        now = {source.path for source in plan.sources}
        new |= now - there
        changed |= {plan.name} if now != there else set()
    assert (made, decoded) == (changed, new) and 0 < len(new) < 10
    planned = {s.id: s.split for plan in page.plan_shards(cutting.config) for s in plan.sources}
    assert {row["id"]: row["split"] for row in cutting.rows()} == planned
    made, decoded = cutting.cut(limit=5)
    fewer = cutting.clips()
    assert 0 < len(fewer) < len(before) and fewer.items() <= before.items()
    assert {label for _, label in fewer.values()} == {"berry", "cherry"}
    cutting.cut(limit=8)
    assert fewer.items() < cutting.clips().items() <= before.items()


def test_shards_by_bytes_decode_what_changes_shards_at_most(cutting: Cutting) -> None:
    """Of videos of some kB, a MiB is one shard a split."""
    before, spec_hash = cutting.clips(), cutting.index()["spec_hash"]
    earlier = {plan.name: plan.sources for plan in page.plan_shards(cutting.config)}
    _, decoded = cutting.cut(shard_mb=1)
    plans = list(page.plan_shards(cutting.config))
    assert [plan.name for plan in plans] == ["train-000000", "val-000000"]
    new = {s.path for plan in plans for s in plan.sources if s not in earlier[plan.name]}
    assert decoded == new and 0 < len(new) < 10
    assert cutting.clips() == before and cutting.index()["spec_hash"] == spec_hash
    assert cutting.cut() == (set(), set())
    assert cutting.config.recipe() == replace(cutting.config, shard_mb=None).recipe()


def test_the_same_cut_in_other_words_is_the_same(cutting: Cutting) -> None:
    before = cutting.files()
    assert cutting.config.stride == cutting.config.frames
    assert cutting.cut(stride=None) == (set(), set()) and cutting.files() == before
    cutting.cut(fps="4,8", overwrite=True)
    assert cutting.cut(fps="4, 8.0", overwrite=False) == (set(), set())


def test_another_number_of_videos_a_shard_decodes_what_changes_shards_at_most(
    cutting: Cutting,
) -> None:
    before, spec_hash = cutting.clips(), cutting.index()["spec_hash"]
    _, decoded = cutting.cut(videos_per_shard=64)
    names = [plan.name for plan in page.plan_shards(cutting.config)]
    assert names == ["train-000000", "val-000000"] and 0 < len(decoded) < 10
    assert cutting.clips() == before and cutting.index()["spec_hash"] == spec_hash
    assert cutting.cut() == (set(), set())


def test_clips_of_an_earlier_format_are_refused(cutting: Cutting) -> None:
    """They can be trained on, but not added to."""
    folder = Path(cutting.config.workspace.clips)
    index = storage.read_json(f"{folder}/index.json")
    earlier = {"spec": index["spec"] | {"format": 4}, "spec_hash": "earlier"}
    storage.publish_json(index | earlier, f"{folder}/index.json")
    with pytest.raises(UserError, match=r"format 4 → 5.*--overwrite"):
        cutting.cut()


def test_a_root_of_strict_that_never_ended_has_its_clips(cutting: Cutting) -> None:
    """A bad video keeps it from an index, however complete it is."""
    bad(cutting, "berry")
    with pytest.raises(IncompleteError):
        cutting.cut(scores=True, strict=True, overwrite=True)
    assert not (Path(cutting.config.workspace.clips) / "index.json").exists()
    with pytest.raises(IncompleteError):
        cutting.cut(overwrite=False)
    assert not cutting.made and not cutting.asked
    assert cutting.cut(strict=False) == (set(), set())
    assert cutting.index()["spec"]["scores"] == list(SCORES)


def bad(cutting: Cutting, label: str = "apple") -> Path:
    path = cutting.videos / label / "0.mp4"
    path.parent.mkdir(exist_ok=True)
    path.write_text("a shopping list")
    return path


@pytest.mark.parametrize("is_first", [True, False])
def test_a_job_that_is_killed_between_rounds_goes_on_to_the_same_bytes(
    is_first: bool, cutting: Cutting
) -> None:
    """The first round numbers a class that turns out to have no clip."""
    bad(cutting)
    cutting.add("berry", 6, 8)
    root = Path(cutting.config.root)
    if is_first:
        shutil.rmtree(root)
    else:
        shutil.copytree(root, root.with_name("copy"))
    cutting.cut()
    undisturbed = cutting.files()
    assert cutting.numbers() == {("berry", 0), ("cherry", 1)}
    shutil.rmtree(root)
    if not is_first:
        root.with_name("copy").rename(root)
    cutting.cut_and_killed(1)
    assert ("berry", 1) in cutting.numbers()
    _, decoded = cutting.cut()
    assert decoded == set() and cutting.files() == undisturbed
    assert cutting.cut() == (set(), set())


def test_no_number_stays_that_no_index_had(cutting: Cutting) -> None:
    """The class whose number a killed job gave is gone when the next one begins."""
    path = bad(cutting)
    cutting.add("berry", 6, 8)
    cutting.cut_and_killed(1)
    assert ("berry", 1) in cutting.numbers()
    path.unlink()
    path.parent.rmdir()
    _, decoded = cutting.cut()
    assert decoded <= {"berry/6.mp4"} | {f"berry/{n}.mp4" for n in range(6)}
    assert cutting.numbers() == {("berry", 0), ("cherry", 1)}
    assert "numberings" not in cutting.index()


def test_a_class_that_comes_and_goes_has_numbers_and_leaves_other_shards(cutting: Cutting) -> None:
    path = bad(cutting)
    cutting.cut()
    assert cutting.index()["without_clips"] == ["apple"]
    before = cutting.files()
    cutting.add("apple", 0, 12)
    made, decoded = cutting.cut()
    assert (len(made), decoded) == (1, {"apple/0.mp4"})
    assert cutting.index()["classes"] == ["apple", "berry", "cherry"]
    assert len(cutting.index()["numberings"]) == 1
    assert {number for label, number in cutting.numbers() if label == "apple"} == {0}
    of_shards = {name: data for name, data in before.items() if "-" in name}
    kept = {name for name, data in cutting.files().items() if of_shards.get(name) == data}
    assert kept == {name for name in of_shards if Path(name).stem not in made}
    assert cutting.cut() == (set(), set())
    path.write_text("a shopping list")
    again, decoded = cutting.cut()
    assert (again, decoded) == (made, {"apple/0.mp4"})
    assert cutting.index()["classes"] == ["berry", "cherry"]
    assert cutting.cut() == (set(), set())
    cutting.cut(overwrite=True)
    assert cutting.numbers() == {("berry", 0), ("cherry", 1)}


@pytest.mark.long
def test_of_five_hundred_videos_only_what_changed_is_made_again(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    first = write(tmp_path / "first.mp4", "libx264", count=4).read_bytes()
    other = write(tmp_path / "other.mp4", "libx264", count=9).read_bytes()
    for index in range(500):
        (videos / f"{index}.mp4").write_bytes(first)
    config = ShardVideos(root=str(tmp_path), labels="none", frames=4, size=16)

    def made() -> set[str]:
        rows = [
            make_shard({"plan": p, "retry": False, "verify": True})
            for p in page.plan_shards(config)
        ]
        return {Marker.from_json(row["marker"]).name for row in rows if row["made"]}

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
    said = page.shard_videos(config).splitlines()
    assert said[0] == "would cut 6 videos of 2 classes into 1 shards"
    assert said[1].startswith("6 of them were cut") and said[1].endswith("without a clip: 6 empty")
    said = page.shard_videos(replace(config, labels="none")).splitlines()
    assert said[0] == "would cut 6 videos without classes into 1 shards"
    assert [entry.name for entry in tmp_path.iterdir()] == ["videos"]


@pytest.mark.parametrize(
    "name", ["text", "audio only", "list of videos", "one frame", "16k header"]
)
def test_a_refused_video_costs_no_process(name: str, tmp_path: Path) -> None:
    process = decoding_process(DECODE_LIMITS.max_memory_gb)
    shard(source(write(tmp_path / "sound.mp4", "libx264", count=8)), tmp_path / "first")
    before = process._process and process._process.pid
    kind = KINDS[name]
    for turn in range(3):
        made = kind.make(tmp_path / f"{turn}{kind.name}")
        account, _ = shard(source(made), tmp_path / f"clips-{turn}")
        assert account.reason == kind.reason
    assert before is not None and process._process and process._process.pid == before


def open_containers() -> int:
    return sum(isinstance(each, av.container.InputContainer) for each in gc.get_objects())


@pytest.mark.long
@pytest.mark.parametrize("reason", ["too_many_pixels", "damaged"])
def test_a_failed_video_leaves_nothing_in_its_process(reason: str, tmp_path: Path) -> None:
    """Neither decoders nor what captures their messages, by which damage is seen."""
    bad = KINDS["size changes"].make(tmp_path / "a.mp4")
    spec = replace(SPEC, limits=Limits(max_pixels=64 * 96))
    if reason == "damaged":
        bad, spec = corrupt(write(tmp_path / "a.mkv", "libx264")), SPEC
    gc.collect()
    gc.disable()  # What is freed later could end the capture of the next video's messages.
    try:
        before = open_containers()
        *_, outcome = cut_video(CutRequest(str(bad), spec))
        assert isinstance(outcome, Outcome) and outcome.error and outcome.error.reason == reason
        assert open_containers() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["begins at 5 s", "begins at 5 s, by mkvmerge"])
def test_times_count_from_the_first_frame(name: str, tmp_path: Path) -> None:
    late = KINDS[name].make(tmp_path / "a.mkv")
    account, samples = shard(source(late), tmp_path / "clips")
    assert account.duration_s == pytest.approx(COUNT / 25, abs=0.05)
    assert json.loads(samples[0].members["json"])["start_s"] == 0.0


def test_only_the_file_that_is_listed_is_read(tmp_path: Path) -> None:
    video = KINDS["list of videos"].make(tmp_path / "a.mp4")
    account, _ = shard(source(video), tmp_path / "clips")
    assert account.detail == "the format concat is not accepted"
    folder = image_folder(tmp_path / "images", 8)
    for number in range(8):
        (folder / f"frame_{number}.jpg").rename(folder / f"x%03d_{number}.jpg")
    frames = replace(source(folder), frames_fps=25.0)
    account, samples = shard(frames, tmp_path / "from-images")
    assert account.status == "ok" and shown(samples) == [[0, 1, 2, 3], [4, 5, 6, 7]]
