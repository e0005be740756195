"""What evaluation measures on videos whose figures are known."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.config.schema import Evaluate
from pipelines.evaluate import (
    METRICS,
    Videos,
    accuracy,
    chosen_rates,
    comparison,
    evaluate,
    headline,
    measure,
    motion,
    real_videos,
)
from pipelines.io import shards
from pipelines.io.shards import ShardWriter
from pipelines.io.video import Frames, encode_lossless
from vqvdm.errors import UserError
from vqvdm.metrics.detectors import Detection

TINY = Evaluate(num_samples=4, detector_steps=4)


def square(speed: int, grey: int = 255) -> Frames:
    """A square that moves `speed` pixels a frame to the right."""
    video = np.zeros((5, 16, 32, 3), np.uint8)
    for t in range(5):
        video[t, 6:10, 1 + speed * t : 5 + speed * t] = grey
    return video


def videos(speeds: list[int], fps: list[float], labels: list[int] | None = None) -> Videos:
    frames = np.stack([square(speed) for speed in speeds])
    return Videos(frames, np.array(labels or [-1] * len(speeds)), np.array(fps))


def test_accuracy_of_clips_and_of_frames() -> None:
    right, wrong, unsure = [0.9, 0.1], [0.2, 0.8], [0.4, 0.6]
    seen = Detection(
        np.array([[right, right], [right, unsure], [wrong, unsure], [wrong, wrong]]),
        np.zeros((4, 3)),
    )
    figures = accuracy(seen, videos([1] * 4, [8.0] * 4, [0, 0, 1, 0]), "real")
    assert figures == {"real/clip_accuracy": 3 / 4, "real/frame_accuracy": 5 / 8}


def test_squares_at_half_the_rate_move_twice_as_far() -> None:
    figures = motion(videos([4, 2, 6, 2], [8.0, 16.0, 8.0, 16.0]), "samples")
    assert figures == pytest.approx(
        {
            "samples/displacement_at_8fps": 5.0,
            "samples/displacement_at_16fps": 2.0,
            "samples/displacement_ratio": 2.5,
        }
    )


def test_one_rate_has_no_ratio() -> None:
    assert motion(videos([3, 3], [12.5] * 2), "real") == pytest.approx(
        {"real/displacement_at_12.5fps": 3.0}
    )


def test_still_videos_divide_by_no_zero() -> None:
    figures = motion(videos([0, 0], [8.0, 16.0]), "samples")
    assert figures["samples/displacement_ratio"] == 0


def test_what_is_measured_follows_metrics_and_labels() -> None:
    real, fake = videos([1, 2], [8.0] * 2, [0, 1]), videos([2, 1], [8.0] * 2, [1, 0])
    assert measure(TINY, ["psnr"], real, fake, real) == {}
    moved = measure(TINY, METRICS, real, fake, None)  # no labels, no classifier
    assert set(moved) == {"real/displacement_at_8fps", "samples/displacement_at_8fps"}
    figures = measure(TINY, ["accuracy", "frechet"], real, fake, real)
    kinds = ("clip_accuracy", "frame_accuracy")
    assert set(figures) == {"samples/frechet_builtin"} | {
        f"{whose}/{kind}" for whose in ("real", "samples") for kind in kinds
    }
    # The samples are the real clips in another order.
    assert figures["samples/clip_accuracy"] == figures["real/clip_accuracy"]
    assert figures["samples/frechet_builtin"] == pytest.approx(0, abs=1e-3)


def test_rates_are_the_lowest_and_highest_or_those_named() -> None:
    assert chosen_rates("all", [12.0, 8.0, 16.0]) == [8.0, 16.0]
    assert chosen_rates("all", [24.0]) == [24.0]
    assert chosen_rates("16, 8,16.0", [30.0]) == [8.0, 16.0]


@pytest.mark.parametrize("text", ["fast", "8,", "0", "8,-1", "nan", "8,inf"])
def test_other_rates_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--fps"):
        chosen_rates(text, [8.0])


def test_the_headline_names_what_was_measured() -> None:
    figures = {"real/displacement_ratio": 2.0, "psnr": 31.26, "samples/clip_accuracy": 0.875}
    assert headline(figures) == "PSNR 31.3 dB class accuracy 0.88 (real 2.00)"
    assert headline({}) == ""


def test_the_comparison_has_a_row_each() -> None:
    rows = [np.stack([square(2, grey)] * 10) for grey in (250, 150, 100)]
    gif = Image.open(io.BytesIO(comparison(rows[0], rows[1], rows[2][:3], fps=8)))
    assert (gif.format, gif.size) == ("GIF", (3 * 32, 3 * 16))  # as many columns as there are
    assert getattr(gif, "n_frames", 1) == 5
    frame = np.asarray(gif.convert("L")).astype(int)
    for row, grey in enumerate((250, 150, 100)):
        assert np.abs(frame[16 * row + 6 : 16 * row + 10, 1:5] - grey).max() <= 8


def test_real_clips_are_those_of_the_split(tmp_path: Path) -> None:
    with ShardWriter(str(tmp_path / "clips"), "train-000000") as writer:
        for k in range(4):
            about = json.dumps({"class_index": k, "fps": 8.0}).encode()
            writer.add(str(k), {"mp4": encode_lossless(square(k), 8), "json": about})
        marker = writer.publish([], "spec", "made", {})
    index = {"shards": [marker.name], "fingerprint": shards.content_fingerprint([marker])}
    config = Evaluate(root=str(tmp_path))
    found = real_videos(config, index, "train", 2)
    assert found is not None
    assert found.class_index_N.tolist() == [0, 3]
    assert np.array_equal(found.frames_NTHWC, np.stack([square(0), square(3)]))
    assert real_videos(config, index, "val", 2) is None


def test_unknown_metrics_are_refused_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'psrn': choose from psnr"):
        evaluate(Evaluate(root=str(tmp_path), metrics="psrn,motion"))
