"""The headline."""

from pipelines.evaluation.result import headline


def test_the_headline_names_what_was_measured() -> None:
    figures = {"real/displacement_ratio": 2.0, "psnr": 31.26, "samples/clip_accuracy": 0.875}
    assert headline(figures) == "PSNR 31.3 dB class accuracy 0.88 (real 2.00)"
    assert headline({}) == ""


def test_distances_name_their_detector_and_floor() -> None:
    figures = {"fvd_builtin": 1.234, "fvd_builtin_ci95": 9.0, "floor/fvd_builtin": 0.5, "is": 60.0}
    assert headline(figures) == "FVD by builtin 1.23 (real 0.5) IS 60"
