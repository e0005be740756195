"""Reasons why a run is not comparable with published figures."""

from typing import Any, cast

import pytest

from pipelines.evaluation.protocols import PROTOCOLS
from pipelines.evaluation.published import SKY, UCF101, obstacles, table_for
from pipelines.evaluation.settings import Evaluate
from pipelines.recipes import presets
from pipelines.sharding.settings import ShardVideos

SPEC: dict[str, Any] = {
    "frames": 16,
    "size": 128,
    "rates": [None],
    "classes": [f"class {i}" for i in range(101)],
}
PROTOCOL: dict[str, Any] = {
    "name": "published",
    "samples": 2048,
    "real_clips": 2048,
    "repeats": 10,
    "real_split": "train",
    "real_draw": "videos",
    "detector": {"name": "i3d"},
    "classifier": {"name": "c3d"},
}


def test_a_run_by_the_protocol_compares() -> None:
    assert obstacles(UCF101, PROTOCOL, SPEC) == []
    assert obstacles(SKY, PROTOCOL | {"classifier": None}, SPEC | {"classes": []}) == []


def test_every_departure_is_named() -> None:
    other = {
        "name": "held-out",
        "samples": 100,
        "real_clips": 90,
        "detector": {"name": "builtin"},
        "classifier": None,
    }
    spec = {"frames": 16, "size": 64, "rates": [8.0], "classes": ["a"]}
    found = " | ".join(obstacles(UCF101, other, spec))
    for words in (
        "1 classes, UCF-101 has 101", "16×64×64", "resampled", "detector is builtin",
        "not the published C3D", "held-out", "100 samples", "90 real clips",
    ):  # fmt: skip
        assert words in found
    assert len(obstacles(UCF101, other, spec)) == 8


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"repeats": 2}, "repeats 2 instead of the protocol's 10"),
        ({"real_split": "val"}, "real split val instead of the protocol's train"),
        ({"real_draw": "clips"}, "real draw clips instead of the protocol's videos"),
        ({"detector": {"name": "i3d_torchscript"}}, "the detector is i3d_torchscript, not"),
    ],
)
def test_a_part_of_a_protocol_that_was_changed(changed: dict[str, Any], words: str) -> None:
    (only,) = obstacles(UCF101, PROTOCOL | changed, SPEC)
    assert only.startswith(words)


def test_ten_splits_do_not_compare_with_the_table() -> None:
    stylegan = {"name": "stylegan-v", "repeats": 1, "real_split": "all"}
    assert "over 10 splits" in " ".join(obstacles(UCF101, PROTOCOL | stylegan, SPEC))
    unlabelled = SPEC | {"classes": []}
    assert obstacles(SKY, PROTOCOL | stylegan | {"classifier": None}, unlabelled) == []


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
