"""Videos to start from: which there are, and which of their frames are given."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.io import storage
from pipelines.sampling.conditions import (
    ClipShape,
    Condition,
    check_mode,
    known_count,
    known_frames,
    list_conditions,
    wanted_frames,
)
from pipelines.sampling.settings import Sample
from pipelines.sampling.worker import classes_in_turn
from tests.tiny import write_bundle
from vqvdm.checkpoint import load_config
from vqvdm.errors import UserError
from vqvdm.video_shapes import VideoShapes

SHAPE = ClipShape(frames=16, size=8, group=4)
GIVEN: dict[str, Any] = {"mode": "predict", "condition": "a.mp4"}


def numbered(frames: int) -> np.ndarray:
    """A clip whose frames have their number, from 1 on, as colour."""
    clip = np.arange(1, frames + 1, dtype=np.uint8)[None, :, None, None, None]
    return np.broadcast_to(clip, (1, frames, 8, 8, 3)).copy()


def given(config: Sample) -> list[int]:
    """Colours of the known frames, 0 where they are unknown."""
    known = known_frames(config, SHAPE, numbered(wanted_frames(config, SHAPE)))
    known.check(1, (16, 8, 8), 4)
    return (known.videos_NTHWC[0, :, 0, 0, 0] * known.mask_NT[0]).tolist()


def test_the_shape_of_a_bundles_clips(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, known_frames=True)
    bundle = load_config(folder)
    shapes = VideoShapes.read(bundle, load_config(folder / "vqgan"))
    assert shapes == VideoShapes((16, 32, 32), 4, 16, any_length=False)
    for config, expected in (
        (Sample(), ClipShape(16, 32, 4)),
        (Sample(size=48, frames=8), ClipShape(8, 48, 4)),
        (Sample(**GIVEN, size=48), ClipShape(16, 48, 4)),
        (Sample(mode="extend", frames=32), ClipShape(16, 32, 4)),  # a window of it
    ):
        assert check_mode(config, bundle, shapes) == expected


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 8),
        ({"known_frames": 12}, 12),
        ({"known_frames": 1}, 1),
        ({"mode": "interpolate"}, 4),
        ({"mode": "extend", "frames": 32}, 8),
    ],
)
def test_by_default_half_a_clip_is_given(changes: dict[str, Any], count: int) -> None:
    assert known_count(Sample(**GIVEN | changes), SHAPE) == count


def test_without_a_tokenizer_any_number_of_frames_is_given() -> None:
    pixels = ClipShape(frames=5, size=8, group=1)
    assert [known_count(Sample(**GIVEN, known_frames=count), pixels) for count in (1, 2, 3, 4)] == [
        1,
        2,
        3,
        4,
    ]
    with pytest.raises(UserError, match=r"takes 1, 2, 3, 4$"):
        known_count(Sample(**GIVEN, known_frames=5), pixels)


def test_to_predict_the_first_frames_are_given() -> None:
    assert given(Sample(**GIVEN, known_frames=4)) == [1, 2, 3, 4, *[0] * 12]


def test_to_interpolate_both_ends_are_given() -> None:
    config = Sample(**GIVEN | {"mode": "interpolate"})
    assert wanted_frames(config, SHAPE) == 16
    assert given(config) == [1, 2, 3, 4, *[0] * 8, 13, 14, 15, 16]


def test_a_single_picture_is_held_for_a_latent_frame() -> None:
    single = Sample(**GIVEN, known_frames=1)
    assert wanted_frames(single, SHAPE) == 1
    assert given(single) == [1] * 4 + [0] * 12
    ends = Sample(**GIVEN | {"mode": "interpolate"}, known_frames=1)
    assert given(ends) == [1] * 4 + [0] * 8 + [16] * 4


def test_conditions_are_a_file_or_all_that_may_be_videos_below_a_folder(tmp_path: Path) -> None:
    for name in ("b/2.mp4", "a/1.mov", "a/still.png", "a/notes.txt", ".hidden/3.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    found = list_conditions(str(tmp_path))
    assert [each.name for each in found] == ["a/1.mov", "a/still.png", "b/2.mp4"]
    assert len({each.sha256 for each in found}) == 3
    (single,) = list_conditions(str(tmp_path / "b/2.mp4"))
    assert (single.name, single.sha256) == ("2.mp4", found[2].sha256)
    (tmp_path / "empty").mkdir()
    for nothing in ("empty", "missing.mp4"):
        with pytest.raises(UserError, match=f"{nothing}: no video is there"):
            list_conditions(str(tmp_path / nothing))


def test_a_condition_may_be_a_single_file_of_a_store() -> None:
    storage.publish_bytes(b"video", "memory://conditions/seven/1.mp4", check=False)
    for uri in ("memory://conditions/seven/1.mp4", "memory://conditions/seven"):
        assert [each.name for each in list_conditions(uri)] == ["1.mp4"]


def test_clips_too_short_for_two_ends_are_told() -> None:
    short = ClipShape(frames=8, size=8, group=4)
    assert known_count(Sample(**GIVEN), short) == 4
    with pytest.raises(UserError, match="8 frames in groups of 4, which leave nothing to make"):
        known_count(Sample(**GIVEN | {"mode": "interpolate"}), short)


def test_the_folder_of_a_condition_names_its_class() -> None:
    condition = Condition("s3://bucket/videos/seven/1.mp4", "1.mp4", "")
    assert condition.label(["zero", "seven"]) == "seven"
    assert condition.label(["zero"]) is None


def test_classes_in_turn_are_joined_by_colons() -> None:
    known = ["zero", "seven", "a:b"]
    assert classes_in_turn("zero:seven", known) == ["zero", "seven"]
    assert classes_in_turn("zero", known) == ["zero"]
    assert classes_in_turn("a:b", known) == ["a:b"]  # one class of that name
    assert classes_in_turn("zero:a:b:seven", known) == ["zero", "a:b", "seven"]
    assert classes_in_turn("a:c", known) == ["a", "c"]  # which are unknown, as is told then
    assert classes_in_turn(None, known) == [None]
