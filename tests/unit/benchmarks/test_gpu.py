"""The benchmark of GPUs runs through all its parts, and its file says what was found."""

import json
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.__main__ import main
from benchmarks.gpu.record import FLOORS, Floor, Record, peak_tflops
from benchmarks.gpu.training import gflop_of_discriminators, gflop_of_stage_one, gflop_of_stage_two
from pipelines.recipes.presets import ucf101_small

CPU = torch.device("cpu")


@pytest.mark.long
def test_a_rehearsal_has_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "new" / "gpu.json"
    arguments = ["gpu", "--out", str(place), "--rehearse"]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setenv("VQVDM_COMMIT", "1a2b3c4")
    assert main() == 0
    found = json.loads(place.read_text())
    assert (found["errors"], found["skipped"]) == ({}, [])
    assert found["rehearsal"] is True
    machine = found["machine"]
    assert machine["torch"] == torch.__version__
    assert (machine["card"], machine["peak_tflops"], machine["commit"]) == ("CPU", None, "1a2b3c4")
    for name, figure in found["figures"].items():
        assert 0 <= figure["least"] <= figure["value"] <= figure["most"], name
        assert figure["unit"] and figure["repeats"] >= 1
    assert found["figures"].keys() >= {
        "a clip by 100 steps", "a clip by 20 steps", "times faster, 100 steps, 1 clip",
        "times faster, 20 steps, 2 clips", "ours, 100 steps, 1 clips, eager",
        "ours, 100 steps, 1 clips, compiled", "stage one", "stage two",
        "stage one without discriminators, eager", "data wait of stage two, eager",
        "encoder, 2 clips, eager", "decoder, 2 clips, eager",
        "attention, level 0, 16 positions, 2 clips, fused",
        "attention, level 2, 1 frames, 1 clips, plain",
        "stage one, channels last, eager", "stage two, contiguous, eager",
    }  # fmt: skip
    # No card, no share of its peak: the floor of that is left out, and is not taken as met.
    assert {floor["figure"] for floor in found["floors"]} == {
        floor.figure for floor in FLOORS if "MFU" not in floor.figure
    }
    for floor in found["floors"]:
        value = found["figures"][floor["figure"]]["value"]
        assert floor["measured"] == value
        assert floor["met"] == Floor(floor["figure"], floor["value"], floor["at_most"]).met(value)


def test_without_a_gpu_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path / "gpu.json")])
    assert main() == 2
    assert "--rehearse" in capsys.readouterr().out


def test_what_goes_wrong_or_has_no_time_is_recorded(tmp_path: Path) -> None:
    record = Record(tmp_path / "gpu.json", CPU, 1.0, rehearsal=True)

    def fails() -> None:
        record.add("before", [3.0, 1.0, 2.0], "s")
        raise RuntimeError("out of memory")

    record.part("first", fails)
    record.part("second", lambda: None)
    record.until = time.monotonic() - 1
    record.part("third", fails)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["errors"] == {"first": "RuntimeError: out of memory"}
    assert found["skipped"] == ["third"]
    assert found["figures"]["before"] == {
        "value": 2.0, "unit": "s", "least": 1.0, "most": 3.0, "repeats": 3,
    }  # fmt: skip


def test_the_best_is_the_least_that_is_there(tmp_path: Path) -> None:
    record = Record(tmp_path / "gpu.json", CPU, 1.0, rehearsal=True)
    record.add("eager", [2.0], "s")
    record.add("graph", [1.0], "s")
    assert record.best("best", ["eager", "graph", "compiled"]) == 1.0
    assert record.data["figures"]["best"]["by"] == "graph"
    assert record.best("none", ["compiled"]) is None


@pytest.mark.parametrize(
    ("card", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("Tesla T4", 65.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L4", 121.0),
        ("Some New Card 9000", None),
    ],
)
def test_what_cards_do_at_best(card: str, peak: float | None) -> None:
    assert peak_tflops(card) == peak


@pytest.mark.long
def test_arithmetic_of_a_step() -> None:
    preset = ucf101_small()
    # A step of the denoiser takes 8.7 GFLOP a clip, the tokenizer 22.4 and 57.6: thrice in all.
    assert gflop_of_stage_two(preset) == pytest.approx(3 * 8.7, rel=0.02)
    assert gflop_of_stage_one(preset) == pytest.approx(3 * (22.4 + 57.6), rel=0.02)
    # Both ways for a clip and its reconstruction, two passes for the tokenizer: 17.1 GFLOP a pass.
    assert gflop_of_discriminators(preset) == pytest.approx(8 * 17.1, rel=0.02)
