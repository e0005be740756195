"""What is asked of the sampler, and what is made of its videos."""

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.config.schema import Sample
from pipelines.io import storage
from pipelines.io.video import Frames
from pipelines.sample import Request, batches, grid, sample, verify_samples, wanted_classes
from vqvdm.errors import UserError

DIGITS = ["zero", "one", "seven"]


def requests(*rates: float) -> list[Request]:
    return [Request("zero", number, fps) for number, fps in enumerate(rates)]


def test_batches_hold_one_frame_rate_and_no_more_than_asked() -> None:
    wanted = requests(8, 16, 8, 8, 16, 8, 8)
    groups = batches(wanted, 2)
    assert [len(group) for group in groups] == [2, 2, 1, 2]
    assert all(len({request.fps for request in group}) == 1 for group in groups)
    together = [request for group in groups for request in group]
    assert sorted(together, key=lambda r: r.number) == wanted
    assert batches([], 2) == []


def test_wanted_classes_are_all_or_those_named() -> None:
    assert wanted_classes("all", DIGITS) == DIGITS
    assert wanted_classes("seven, zero", DIGITS) == ["seven", "zero"]
    assert wanted_classes("all", []) == [None]


def test_a_class_named_twice_is_sampled_once() -> None:
    assert wanted_classes("zero,one,zero", DIGITS) == ["zero", "one"]


def test_an_unknown_class_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="'sevn': did you mean 'seven'"):
        wanted_classes("zero,sevn", DIGITS)
    with pytest.raises(UserError, match="unconditional"):
        wanted_classes("zero", [])


def test_every_video_has_a_seed_of_its_own() -> None:
    wanted = [Request(label, k, 8.0) for label in [*DIGITS, None] for k in range(3)]
    seeds = [request.seed(base) for base in (0, 1) for request in wanted]
    assert len(set(seeds)) == len(seeds)


def test_a_seed_does_not_depend_on_what_else_is_asked_for() -> None:
    request = Request("seven", 2, 16.0)
    assert request.seed(4) == Request("seven", 2, 16.0).seed(4)
    assert request.seed(4) == replace(request, fps=8.0).seed(4)  # the same motion, slower
    number = int.from_bytes(hashlib.sha256(b"seven").digest()[:8], "big")
    assert request.seed(4) == (4, number, 2)  # in every process, on every machine


def test_files_are_sorted_by_class() -> None:
    assert Request("zero", 12, 8.0).file == "zero/00012.mp4"
    assert Request(None, 0, 8.0).file == "unlabelled/00000.mp4"


def flashing(*colour: int) -> Frames:
    """A video in one colour that grows darker."""
    steps = np.array([1.0, 0.75, 0.5])[:, None, None, None]
    return (np.full((3, 8, 12, 3), colour) * steps).astype(np.uint8)


def test_the_grid_is_an_animation_of_all_videos() -> None:
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (200, 200, 200), (250, 250, 0)]
    gif = Image.open(io.BytesIO(grid([flashing(*c) for c in colours], columns=2, fps=8)))
    assert (gif.format, gif.size) == ("GIF", (2 * 12, 3 * 8))
    assert (getattr(gif, "n_frames", 1), gif.info["loop"]) == (3, 0)
    for index in range(3):
        gif.seek(index)
        assert gif.info["duration"] == pytest.approx(125, abs=10)  # GIF counts in 10 ms
        frame = np.asarray(gif.convert("RGB")).astype(int)
        for place, colour in enumerate([*colours, (0, 0, 0)]):
            top, left = place // 2 * 8, place % 2 * 12
            wanted = np.array(colour) * (1 - index / 4)
            assert np.abs(frame[top : top + 8, left : left + 12] - wanted).max() <= 8


def test_missing_and_changed_samples_are_named(tmp_path: Path) -> None:
    rows = []
    for number in range(3):
        content = str(number).encode()
        file = Request("zero", number, 8.0).file
        storage.publish_bytes(content, str(tmp_path / file))
        rows.append({"file": file, "sha256": hashlib.sha256(content).hexdigest()})
    verify_samples(str(tmp_path), rows)
    (tmp_path / "zero/00002.mp4").unlink()
    with pytest.raises(UserError, match=r"zero/00002\.mp4 is missing.*--overwrite"):
        verify_samples(str(tmp_path), rows)
    (tmp_path / "zero/00001.mp4").write_bytes(b"2")
    with pytest.raises(UserError, match=r"zero/00001\.mp4 .* changed"):
        verify_samples(str(tmp_path), rows)


def test_a_dry_run_tells_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    bundle = {"classes": DIGITS, "fingerprint": "abc"}
    storage.publish_json(bundle, str(tmp_path / "ldm/base/config.json"))
    config = Sample(root=str(tmp_path), num_per_class=5, classes="zero,one", dry_run=True)
    plan = sample(config)
    assert "10 videos of 2 classes" in plan
    assert [path.name for path in tmp_path.iterdir()] == ["ldm"]
    with pytest.raises(UserError, match="num-per-class"):
        sample(replace(config, num_per_class=0))
    with pytest.raises(UserError, match=r"ldm/other/config\.json.*train_ldm"):
        sample(replace(config, ldm="other"))
