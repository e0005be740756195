"""Real clips are checked before hours go into sampling."""

from typing import Any

import numpy as np
import pytest

from pipelines.config.schema import Evaluate
from pipelines.evaluation.figures import Figures
from pipelines.evaluation.inputs import Inputs
from pipelines.evaluation.real import Real, only_rates, refuse_early
from pipelines.evaluation.summary import Summary
from vqvdm.errors import UserError

WIDTH = 64


def real(fps: list[float], labels: list[int] | None = None, spread: float = 1.0) -> Real:
    count = len(fps)
    summary = Summary("real clips", count)
    rows = spread * np.random.default_rng(0).standard_normal((count, WIDTH))
    summary.add({"features": rows}, np.arange(count))
    index_N = np.array(labels or [0] * count)
    return Real([None] * count, summary, summary, index_N, np.array(fps), [], None)  # type: ignore


def inputs(in_pixels: bool = False, **settings: Any) -> Inputs:
    bundle = {"classes": ["a", "b"], "fps": [8.0, 16.0]}
    return Inputs(Evaluate(**settings), bundle, {}, in_pixels, None, None, None)


def test_rates_that_no_real_clip_has() -> None:
    with pytest.raises(UserError, match="--fps 12: real clips have 8, 16 frames"):
        only_rates(Evaluate(fps="8,12"), [8.0, 16.0], real([8.0, 16.0]))
    only_rates(Evaluate(fps="8"), [8.0, 16.0], real([8.0, 16.0]))


def test_rates_that_the_model_never_saw() -> None:
    with pytest.raises(UserError, match="real clips have 25 frames a second"):
        only_rates(Evaluate(), [8.0, 16.0], real([8.0, 25.0]))
    only_rates(Evaluate(), [29.97, 25.0], real([30000 / 1001, 25.0]))


def test_a_missing_class_is_named() -> None:
    figures = Figures(strict=False)
    refuse_early(figures, inputs(), real([8.0] * 90))
    assert "class 'b' is missing from the 90 real clips (val)" in figures.not_measured["fvd"]
    with pytest.raises(UserError, match="class 'b' is missing"):
        refuse_early(Figures(strict=True), inputs(metrics="kvd"), real([8.0] * 90))


def test_too_few_clips_are_told_at_once() -> None:
    both = [0, 1] * 45
    with pytest.raises(UserError, match=r"50 clips are too few.* least 65 real clips and sampl"):
        refuse_early(Figures(True), inputs(metrics="fvd", num_samples=50), real([8.0] * 90, both))
    enough = Figures(strict=True)
    refuse_early(enough, inputs(metrics="fvd", num_samples=65), real([8.0] * 90, both))
    assert not enough.not_measured


def test_constant_features_are_told_at_once() -> None:
    same = real([8.0] * 90, [0, 1] * 45, spread=0.0)
    for metric in ("fvd", "kvd"):
        with pytest.raises(UserError, match=f"{metric}: all 90 real clips have the same features"):
            refuse_early(Figures(strict=True), inputs(metrics=metric), same)


def test_a_model_of_pixels_reconstructs_nothing() -> None:
    figures, both = Figures(strict=False), [0, 1] * 45
    refuse_early(figures, inputs(in_pixels=True), real([8.0] * 90, both))
    assert {"psnr", "ssim", "rfvd"} <= figures.not_measured.keys()
    assert "fvd" not in figures.not_measured
