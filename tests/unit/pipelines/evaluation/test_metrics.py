"""Metrics: named by detector, with floors, or with the reason why a floor is missing."""

from typing import Any

import numpy as np
import pytest

from pipelines.demo.settings import DIGITS
from pipelines.evaluation.inputs import Inputs
from pipelines.evaluation.metrics import (
    Metrics,
    Sets,
    distances,
    named,
    refuse_early,
    refuse_too_few,
    scalars,
    scores,
)
from pipelines.evaluation.protocols import PROTOCOLS
from pipelines.evaluation.real_clips import RealClips
from pipelines.evaluation.settings import Evaluate
from pipelines.evaluation.statistics import Statistics
from vqvdm.errors import UserError
from vqvdm.metrics import frechet_distance, kernel_distance

HELD_OUT = PROTOCOLS["held-out"]


WIDTH = 6


def rows(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, WIDTH)) + shift).astype(np.float32)


def summary(features: np.ndarray, **more: np.ndarray) -> Statistics:
    made = Statistics("clips", len(features))
    made.add({"features": features, "fps": np.full(len(features), 8.0)} | more,
             np.arange(len(features)))  # fmt: skip
    return made


@pytest.fixture
def sets() -> Sets:
    return Sets(
        summary(rows(40, 0)),
        summary(rows(40, 1)),
        summary(rows(40, 2, 0.1)),
        [summary(rows(40, seed, 0.5)) for seed in (3, 4, 5)],
    )


def test_only_the_published_detectors_give_bare_names() -> None:
    assert named("fvd", "i3d") == "fvd" and named("is", "c3d") == "is"
    assert named("fvd", "builtin") == "fvd_builtin" and named("is", "i3d") == "is_i3d"


def test_distances_over_repeats_and_their_floor(sets: Sets) -> None:
    figures = Metrics(strict=True)
    distances(figures, ["fvd", "kvd", "rfvd"], sets, HELD_OUT, "builtin")
    each = [frechet_distance(rows(40, 0), rows(40, seed, 0.5)) for seed in (3, 4, 5)]
    found = figures.values["fvd_builtin"]
    assert found.mean == pytest.approx(np.mean(each))
    assert found.repeats == 3 and found.interval and found.interval > 0
    floor = frechet_distance(rows(40, 0), rows(40, 1))
    assert figures.values["floor/fvd_builtin"].mean == pytest.approx(floor)
    kvd = kernel_distance(rows(40, 0), rows(40, 1))
    assert figures.values["floor/kvd_builtin"].mean == pytest.approx(kvd)
    assert {"rfvd_builtin", "kvd_builtin"} <= figures.values.keys()
    assert figures.flat["fvd_builtin_ci95"] == found.interval
    infinity = figures.values["infinity/fvd_builtin"]
    assert infinity.interval and infinity.mean < found.mean
    assert all(figures.values[f"floor/{name}_builtin"].interval for name in ("fvd", "kvd"))


def test_what_cannot_be_measured_is_an_error_if_it_was_asked_for(sets: Sets) -> None:
    sets.samples = [summary(rows(5, 3))]
    lenient = Metrics(strict=False)
    distances(lenient, ["fvd", "kvd"], sets, HELD_OUT, "builtin")
    assert "5 clips are too few" in lenient.not_measured["fvd"]
    assert "kvd_builtin" in lenient.values and "fvd_builtin" not in lenient.values
    with pytest.raises(UserError, match=f"fvd: clips: 5 clips are too few.*{WIDTH + 1}"):
        distances(Metrics(strict=True), ["fvd"], sets, HELD_OUT, "builtin")


def test_a_floor_without_clips_is_accounted_for(sets: Sets) -> None:
    sets.floor = Statistics("other", 0)
    figures = Metrics(strict=True)
    distances(figures, ["fvd"], sets, HELD_OUT, "i3d")
    assert "floor/fvd" not in figures.values
    assert "only 0 other real clips of the same proportions" in figures.not_measured["floor/fvd"]


def test_scores_of_samples_and_of_real_clips() -> None:
    sure, unsure = np.eye(4)[np.arange(40) % 4], np.full((40, 4), 0.25)
    real, fake = (summary(rows(40, 0), probabilities=p) for p in (sure, unsure))
    figures = Metrics(strict=True)
    scores(figures, Sets(real, real, real, [fake]), "c3d")
    assert figures.values["is"].mean == pytest.approx(1)
    assert figures.values["real/is"].mean == pytest.approx(4)


def test_scalars_keep_the_names_that_the_demo_prints(sets: Sets) -> None:
    right = {"clip_right": np.arange(40) < 30, "frames_right": np.full(40, 0.5)}
    moved = np.where(np.arange(40) % 2, 1.0, 2.0)
    fps = np.where(np.arange(40) % 2, 16.0, 8.0)
    real = summary(rows(40, 0), displacement=moved, fps=fps, **right)
    compared = summary(rows(40, 0), psnr=np.full(40, 28.0))
    figures = Metrics(strict=True)
    scalars(figures, ["psnr", "motion"], Sets(real, real, compared, [real]))
    assert figures.flat == pytest.approx(
        {"psnr": 28.0}
        | {f"{whose}/{name}": value for whose in ("real", "samples") for name, value in {
            "clip_accuracy": 0.75, "frame_accuracy": 0.5, "displacement_at_8fps": 2.0,
            "displacement_at_16fps": 1.0, "displacement_ratio": 2.0}.items()}
    )  # fmt: skip


def real(fps: list[float], labels: list[int] | None = None, spread: float = 1.0) -> RealClips:
    count = len(fps)
    summary = Statistics("real clips", count)
    rows = spread * np.random.default_rng(0).standard_normal((count, 64))
    summary.add({"features": rows}, np.arange(count))
    index_N = np.array(labels or [0] * count)
    return RealClips([None] * count, summary, summary, index_N, np.array(fps), [], [], None)  # type: ignore


def inputs(in_pixels: bool = False, **settings: Any) -> Inputs:
    bundle = {"classes": ["a", "b"], "fps": [8.0, 16.0]}
    return Inputs(Evaluate(**settings), bundle, {}, "", "", in_pixels, None, None, None)


def test_a_missing_class_is_named() -> None:
    metrics = Metrics(strict=False)
    refuse_early(metrics, inputs(), real([8.0] * 90))
    assert "class 'b' is missing from the 90 real clips (val)" in metrics.not_measured["fvd"]
    with pytest.raises(UserError, match="class 'b' is missing"):
        refuse_early(Metrics(strict=True), inputs(metrics="kvd"), real([8.0] * 90))


def test_too_few_clips_are_refused_at_once() -> None:
    """Each with what makes them more."""
    few = "too few for the covariance of 64 features, which takes 65 of each: "
    with pytest.raises(UserError, match=f"90 real clips and 50 samples are {few}pass --num-sam"):
        refuse_too_few(Metrics(True), inputs(metrics="fvd", num_samples=50), 90, 64)
    metrics = Metrics(strict=False)
    refuse_too_few(metrics, inputs(num_samples=65), 64, 64)
    assert metrics.not_measured.keys() == {"fvd", "rfvd"}
    assert f"are {few}--real-split all takes those of training" in metrics.not_measured["fvd"]
    refuse_too_few(metrics, inputs(num_samples=65, real_split="all"), 64, 64)
    assert f"are {few}more videos, or a smaller --stride" in metrics.not_measured["fvd"]
    enough = Metrics(strict=True)
    refuse_too_few(enough, inputs(metrics="fvd", num_samples=65), 65, 64)
    assert not enough.not_measured


def test_constant_features_are_refused_at_once() -> None:
    same = real([8.0] * 90, [0, 1] * 45, spread=0.0)
    for metric in ("fvd", "kvd"):
        with pytest.raises(UserError, match=f"{metric}: all 90 real clips have the same features"):
            refuse_early(Metrics(strict=True), inputs(metrics=metric), same)


def test_a_model_of_pixels_reconstructs_nothing() -> None:
    metrics, both = Metrics(strict=False), [0, 1] * 45
    refuse_early(metrics, inputs(in_pixels=True), real([8.0] * 90, both))
    assert {"psnr", "ssim", "rfvd"} <= metrics.not_measured.keys()
    assert "fvd" not in metrics.not_measured


def test_displacement_is_of_the_demos_digits_only() -> None:
    others = Metrics(strict=False)
    refuse_early(others, inputs(), real([8.0] * 90, [0, 1] * 45))
    assert "the demo's digits" in others.not_measured["motion"]
    with pytest.raises(UserError, match="motion: displacement is that of the demo's digits"):
        refuse_early(Metrics(strict=True), inputs(metrics="motion"), real([8.0] * 90, [0, 1] * 45))
    digits = Inputs(Evaluate(), {"classes": list(DIGITS)}, {}, "", "", False, None, None, None)
    demo = Metrics(strict=False)
    refuse_early(demo, digits, real([8.0] * 90, list(range(10)) * 9))
    assert "motion" not in demo.not_measured
