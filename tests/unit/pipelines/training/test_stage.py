"""A training job in a place that was used before."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.io import storage
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.settings import TrainLDM, TrainVQGAN
from pipelines.training.stage import Stage, _refuse_other, run_stage
from pipelines.training.trainer import Data
from vqvdm.errors import UserError


def stage(clips: str, **changes: Any) -> Stage:
    return Stage(
        name="train_vqgan",
        config=TrainVQGAN(**changes),
        method=lambda *_: None,  # type: ignore[arg-type, return-value]
        data=Data("clips", [], "shard_videos", None),
        folder="root/vqgan/base",
        inputs={"clips": clips},
        lineage={},
    )


def left_by(before: Stage) -> dict[str, Any]:
    return {"recipe": before.recipe, "inputs": dict(before.inputs)}


def test_the_same_recipe_goes_on_at_another_scale() -> None:
    _refuse_other(stage("a", num_workers=4, accumulate=2, keep=5), left_by(stage("a")))


def test_input_that_changed_is_named() -> None:
    with pytest.raises(UserError, match=r"the clips have changed .*\(a, now b\): pass --overwrite"):
        _refuse_other(stage("b"), left_by(stage("a")))


def test_other_settings_are_refused() -> None:
    with pytest.raises(UserError, match="other settings"):
        _refuse_other(stage("a", steps=7), left_by(stage("a")))


@pytest.mark.parametrize(("workers", "parts", "near"), [(2, 1, 4), (3, 2, 6), (8, 1, 8)])
def test_a_batch_that_does_not_divide_is_refused_with_one_that_does(
    workers: int, parts: int, near: int
) -> None:
    with pytest.raises(UserError, match=rf"--batch-size 5 .*{workers} workers.*such as {near}"):
        TrainLDM(batch_size=5, num_workers=workers, accumulate=parts).check()


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The files in the folder at the start of each training."""
    begun: list[list[str]] = []

    def note(stage: Stage, *_: object) -> str:
        files = storage.walk(stage.folder)
        begun.append([file.uri.rsplit("/", 1)[1] for file in files])
        return "trained"

    monkeypatch.setattr("pipelines.training.stage._train_and_publish", note)
    monkeypatch.setattr("pipelines.io.lock.SETTLE_S", 0.0)
    return begun


def publish(stage: Stage, weights: bytes = b"weights") -> None:
    storage.publish_bytes(weights, f"{stage.folder}/model.safetensors")
    fingerprint = storage.sha256(f"{stage.folder}/model.safetensors")[:16]
    config = left_by(stage) | {"fingerprint": fingerprint}
    storage.publish_json(config, f"{stage.folder}/config.json")


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_done_is_verified_and_a_damaged_one_made_again(
    overwrite: bool, tmp_path: Path, trainings: list[list[str]]
) -> None:
    done = replace(stage("a", overwrite=overwrite), folder=str(tmp_path))
    publish(done)
    assert "is there already, verified" in run_stage(done)
    (tmp_path / "model.safetensors").write_bytes(b"other")
    if not overwrite:
        with pytest.raises(UserError, match="--overwrite to make it again"):
            run_stage(done)
        assert trainings == []
    else:
        assert run_stage(done) == "trained"
        assert trainings == [["lock.json"]]


@pytest.mark.parametrize("steps", [1000, 7])
def test_overwriting_resumes_what_the_same_command_left(
    steps: int, tmp_path: Path, trainings: list[list[str]]
) -> None:
    killed = replace(stage("a"), folder=str(tmp_path))
    Checkpoints(str(tmp_path), killed.recipe, 2, killed.inputs).save(3, {"step": 3})
    run_stage(replace(stage("a", overwrite=True, steps=steps), folder=str(tmp_path)))
    kept = "step-00000003.safetensors" in trainings[0]
    assert kept == (steps == killed.config.steps)
