"""A training job in a place that was used before."""

from typing import Any

import pytest

from pipelines.config.schema import TrainLDM, TrainVQGAN
from pipelines.training.stage import Stage, _refuse_other
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
        about={},
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
def test_a_batch_that_does_not_divide_is_told_with_one_that_does(
    workers: int, parts: int, near: int
) -> None:
    with pytest.raises(UserError, match=rf"--batch-size 5 .*{workers} workers.*such as {near}"):
        TrainLDM(batch_size=5, num_workers=workers, accumulate=parts).check()
