"""Which settings a sweep tries, which it chooses, and what it writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.cluster.devices import Devices
from pipelines.evaluation import sweep
from pipelines.evaluation.estimates import Estimate
from pipelines.evaluation.inputs import Inputs, find_inputs
from pipelines.evaluation.settings import Evaluate
from pipelines.io import storage
from tests.described_model import BUNDLE, describe_model
from vqvdm.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> str:
    return describe_model(str(tmp_path))


def trial(guidance: float, fvd: float, interval: float | None) -> sweep.Trial:
    return sweep.Trial(guidance, (0.0, 1.0), 20, Estimate(fvd, interval, 1), 100)


def test_all_values_are_combined_and_each_is_tried_once() -> None:
    tried = sweep.candidates(Evaluate(sweep="guidance, interval", steps=7))
    guided = [(each.guidance, each.guidance_interval) for each in tried if each.guidance != 1]
    assert len(tried) == 1 + 4 * 4 and len(set(guided)) == 16
    assert {each.steps for each in tried} == {7}
    for each in tried:
        assert (each.metrics, each.real_split, each.num_train) == ("fvd", "val", 0)
        assert not each.sweep


def test_steps_are_swept_at_the_guidance_that_is_given() -> None:
    tried = sweep.candidates(Evaluate(sweep="steps", guidance=3.0))
    assert [each.steps for each in tried] == list(sweep.VALUES["steps"])
    assert {each.guidance for each in tried} == {3.0}


def test_a_student_is_tried_by_the_steps_that_it_was_taught() -> None:
    tried = sweep.candidates(Evaluate(sweep="steps"), student_of=4)
    assert [each.steps for each in tried] == [1, 2, 4]


def test_other_clips_may_be_named() -> None:
    (first, *_) = sweep.candidates(Evaluate(sweep="steps", real_split="all"))
    assert first.real_split == "all"


def test_what_cannot_be_swept_is_refused() -> None:
    with pytest.raises(UserError, match="--sweep ema: choose from guidance, interval, steps"):
        Evaluate(sweep="guidance,ema").check()


def test_the_lowest_is_chosen_and_those_near_it_are_counted() -> None:
    trials = [
        trial(1, 0.30, 0.01),
        trial(2, 0.20, 0.02),
        trial(3, 0.23, 0.02),
        trial(4, 0.25, 0.02),
    ]
    chosen, alike = sweep.best(trials)
    assert (chosen.guidance, alike) == (2, 1)
    words = sweep.verdict(trials, "builtin", "val")
    assert words.startswith("--guidance 2 --guidance-interval 0 1 --steps 20: FVD 0.2 ± 0.02 by ")
    assert "by builtin on 100 clips (val), the lowest of 4" in words
    assert (
        "the lowest of 4; 1 of them not significantly different. The settings were selected on"
        in words
    )


def test_without_intervals_only_equals_are_alike() -> None:
    assert sweep.best([trial(1, 0.2, None), trial(2, 0.2, None), trial(3, 0.3, None)])[1] == 1


@pytest.mark.long
def test_a_sweep_measures_each_and_writes_the_choice(
    root: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(sweep, "choose_devices", lambda request: Devices())
    asked: list[Inputs] = []
    prepared: list[Inputs] = []
    found: list[Evaluate] = []

    def find(config: Evaluate) -> Inputs:
        found.append(config)
        return find_inputs(config)

    def measure(inputs: Inputs) -> tuple[Estimate, int]:
        asked.append(inputs)
        return Estimate(abs(inputs.config.guidance - 3.0) + 0.1, 0.05, 1), 90

    def fvd_by(inputs: Inputs, devices: Devices) -> Callable[[Inputs], tuple[Estimate, int]]:
        prepared.append(inputs)
        return measure

    monkeypatch.setattr(sweep, "find_inputs", find)
    monkeypatch.setattr(sweep, "fvd_by", fvd_by)
    config = Evaluate(root=root, sweep="guidance")
    words = sweep.run(config)
    assert words.startswith("--guidance 3 ") and "on 90 clips (val)" in words
    content: dict[str, Any] = storage.read_json(f"{root}/eval/base/sweep.json")
    assert [each["guidance"] for each in content["trials"]] == list(sweep.VALUES["guidance"])
    assert content["chosen"]["guidance"] == 3.0 and content["chosen"]["clips"] == 90
    # Files and detectors are found once, and what each trial is given is what it would find.
    assert len(found) == len(prepared) == 1
    wanted = [find_inputs(each) for each in sweep.candidates(config)]
    assert [replace(each, owner=None) for each in asked] == wanted
    # Workers are told whose lock they have to see.
    assert all(each.owner for each in (*prepared, *asked))
    assert capsys.readouterr().out.count(": FVD ") == len(asked) == 5
    assert not storage.exists(f"{root}/eval/base/metrics.json")


def test_a_student_has_its_guidance_built_in(root: str) -> None:
    objective = {"name": "average_velocity", "intervals": 4}
    storage.publish_json(BUNDLE | {"objective": objective}, f"{root}/ldm/base/config.json")
    with pytest.raises(UserError, match="guidance built in: only --sweep steps"):
        sweep.run(Evaluate(root=root, sweep="guidance,steps"))
