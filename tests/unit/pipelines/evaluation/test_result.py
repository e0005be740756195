"""The headline, and what a figure is known by."""

from pathlib import Path

import numpy as np

from pipelines.evaluation.inputs import find_inputs
from pipelines.evaluation.metrics import Metrics, Sets
from pipelines.evaluation.result import headline, result
from pipelines.evaluation.settings import Evaluate
from pipelines.evaluation.statistics import Statistics
from tests.described_model import describe_model


def test_the_headline_names_what_was_measured() -> None:
    figures = {"real/displacement_ratio": 2.0, "psnr": 31.26, "samples/clip_accuracy": 0.875}
    assert headline(figures) == "PSNR 31.3 dB class accuracy 0.88 (real 2.00)"
    assert headline({}) == ""


def test_distances_name_their_detector_and_floor() -> None:
    figures = {"fvd_builtin": 1.234, "fvd_builtin_ci95": 9.0, "floor/fvd_builtin": 0.5, "is": 60.0}
    assert headline(figures) == "FVD by builtin 1.23 (real 0.5) IS 60"


def test_figures_at_some_rates_compare_with_their_like_only(tmp_path: Path) -> None:
    inputs = find_inputs(Evaluate(root=describe_model(str(tmp_path)), metrics="kvd"))
    samples = Statistics("samples", 1)
    samples.add({"fps": np.array([8.0])}, np.array([0]))

    def measured(only_at: list[float] | None) -> dict:
        sets = Sets(samples, samples, samples, [samples], only_at=only_at)
        return result(inputs, Metrics(strict=False), sets, 1, {})

    every, at_8, at_16 = measured(None), measured([8.0]), measured([16.0])
    assert "real_fps" not in every["protocol"] and at_8["protocol"]["real_fps"] == [8.0]
    assert len({each["measured_on"] for each in (every, at_8, at_16)}) == 3
    assert at_8["measured_on"] == measured([8.0])["measured_on"]
    assert "rates of real clips: 8 fps instead of all" in at_8["published"]["reasons"]
