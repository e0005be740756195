"""Reasons why a run is not comparable with published figures."""

from dataclasses import fields
from typing import Any, cast

import pytest

from pipelines.evaluation import published
from pipelines.evaluation.protocols import PROTOCOLS
from pipelines.evaluation.published import SKY, UCF101, Table, conditions, doubts, table_for
from pipelines.evaluation.settings import Evaluate
from pipelines.recipes import presets
from pipelines.sharding.clips import ClipSpec
from pipelines.sharding.settings import ShardVideos

SPEC: dict[str, Any] = {
    "frames": 16,
    "size": 128,
    "stride": 1,
    "rates": [None],
    "scenes": "none",
    "crop_bars": False,
    "filters": {"min_motion": 0.0, "min_size": 0},
    "classes": [f"class {i}" for i in range(101)],
}
PROTOCOL: dict[str, Any] = {
    "name": "published",
    "videos": 9537,
    "samples": 2048,
    "real_clips": 2048,
    "repeats": 10,
    "real_split": "train",
    "real_draw": "videos",
    "is_splits": 1,
    "covariance_ddof": 1,
    "detector": {"name": "i3d"},
    "classifier": {"name": "c3d"},
}
SKY_SPEC = SPEC | {"classes": []}
SKY_PROTOCOL = PROTOCOL | {"classifier": None, "videos": 5000}


def differences(table: Table, protocol: dict[str, Any], spec: dict[str, Any]) -> list[str]:
    return [str(each) for each in conditions(table, protocol, spec) if not each.same]


def test_a_run_by_the_protocol_compares() -> None:
    assert differences(UCF101, PROTOCOL, SPEC) == []
    assert differences(SKY, SKY_PROTOCOL, SKY_SPEC) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"videos": 9000}, "videos of the split: 9,000 instead of 9,537"),
        ({"samples": 100}, "samples: 100 instead of 2,048"),
        ({"real_clips": 2047}, "real clips: 2,047 instead of 2,048"),
        ({"repeats": 2}, "repeats: 2 instead of 10"),
        ({"captions": {"samples_told": 2048}}, "samples by captions: 2,048 instead of 0"),
        ({"real_fps": [25.0, 29.97]}, "rates of real clips: 25, 29.97 fps instead of all"),
        ({"real_split": "val"}, "split of real clips: val instead of train"),
        ({"real_draw": "clips"}, "draw of real clips: any clip instead of one random clip a vid"),
        ({"is_splits": 10}, "splits of the inception score: 10 instead of 1"),
        ({"covariance_ddof": 0}, "covariance: by N−0 instead of by N−1"),
        ({"detector": {"name": "i3d_torchscript"}}, "detector: i3d_torchscript instead of i3d"),
        ({"classifier": None}, "classifier of the inception score: none instead of c3d"),
        ({"name": "held-out"}, "protocol: held-out instead of published or tats or stylegan-v"),
    ],
)
def test_a_part_of_a_protocol_that_was_changed(changed: dict[str, Any], words: str) -> None:
    (only,) = differences(UCF101, PROTOCOL | changed, SPEC)
    assert only.startswith(words)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"classes": ["a"]}, "classes: 1 instead of 101"),
        ({"frames": 17}, "frames: 17 instead of 16"),
        ({"size": 64}, "size: 64×64 instead of 128×128"),
        ({"rates": [8.0, 16.0]}, "frame rate: resampled to 8, 16 fps instead of every frame"),
        ({"stride": 16}, "starts of windows: every 16 frames instead of any frame"),
        ({"scenes": "detect"}, "cut at scene changes: yes instead of no"),
        ({"crop_bars": True}, "bars cropped: yes instead of no"),
        ({"filters": {"min_motion": 0.5}}, "filters: min_motion 0.5 instead of none"),
        ({"filters": {"min_fps": 10.0}}, "filters: min_fps 10 instead of none"),
    ],
)
def test_clips_that_were_cut_otherwise(changed: dict[str, Any], words: str) -> None:
    (only,) = differences(UCF101, PROTOCOL, SPEC | changed)
    assert only.startswith(words)


def test_every_setting_of_clips_is_judged_or_has_no_say() -> None:
    """Limits reject videos, which are counted; scores stand beside clips and change none."""
    judged = SPEC.keys() | {"limits", "scores"}
    assert judged == {field.name for field in fields(ClipSpec)}


def test_protocols_differ_by_data_set() -> None:
    tats = {"name": "tats", "real_draw": "clips"}
    (only,) = differences(UCF101, PROTOCOL | tats, SPEC)
    assert only == "resizing: with antialiasing instead of bilinear, without antialiasing"
    (only,) = differences(SKY, SKY_PROTOCOL | tats, SKY_SPEC)
    assert only == "draw of real clips: any clip instead of one random clip a video"
    stylegan = {"name": "stylegan-v", "repeats": 1, "real_split": "all", "covariance_ddof": 0}
    found = differences(UCF101, PROTOCOL | stylegan | {"is_splits": 10, "videos": 13320}, SPEC)
    assert len(found) == 2 and "JPEG" in found[0]
    assert found[1] == "splits of the inception score: 10 instead of 1"


def test_clips_of_older_indices_are_judged_too() -> None:
    old = {k: v for k, v in SPEC.items() if k not in ("scenes", "crop_bars", "filters")}
    assert differences(UCF101, PROTOCOL, old) == []


def test_reports_say_that_nothing_was_reproduced_until_something_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "no published figure has been reproduced" in doubts(SKY)[0]
    assert "C3D" in doubts(UCF101)[-1]
    monkeypatch.setattr(published, "REPRODUCED", ("a published model: FVD 332",))
    assert "reproduced" not in " ".join(doubts(SKY))


@pytest.mark.parametrize("preset", ["ucf101", "ucf101-paper", "sky", "sky-paper"])
def test_presets_follow_the_published_protocol(preset: str) -> None:
    evaluate = cast(Evaluate, presets.settings(preset, "evaluate"))
    assert evaluate.chosen == PROTOCOLS["published"]
    assert (evaluate.detector, evaluate.num_real, evaluate.fps) == ("i3d", None, "all")
    assert evaluate.classifier == ("c3d" if preset.startswith("ucf101") else None)
    clips = cast(ShardVideos, presets.settings(preset, "shard_videos"))
    assert (clips.rates, clips.frames, clips.size) == ([None], 16, 128)


def test_tables_belong_to_presets() -> None:
    assert table_for("sky-paper") is SKY
    assert table_for("ucf101") is table_for("demo") is UCF101
    assert {len(row.figures) for table in (UCF101, SKY) for row in table.rows} == {2}


def test_the_protocols_keep_to_their_card() -> None:
    published, tats, stylegan = (PROTOCOLS[n] for n in ("published", "tats", "stylegan-v"))
    assert (published.num_samples, published.repeats, published.is_splits) == (2048, 10, 1)
    assert (tats.real_draw, tats.real_split, tats.ddof) == ("clips", "train", 1)
    assert (stylegan.is_splits, stylegan.ddof, stylegan.real_split) == (10, 0, "all")
