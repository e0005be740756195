"""Settings of trainings that make no sense are refused by name; the scale is no recipe."""

from dataclasses import replace
from typing import Any

import pytest

from pipelines.recipes.presets import settings
from pipelines.training.settings import TrainLDM, TrainVQGAN
from vqvdm.diffusion.dit import DiTConfig
from vqvdm.diffusion.lora import LoRAConfig
from vqvdm.errors import UserError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cache_gb": 0.0}, "--cache-gb must be above 0"),
        ({"cache_gb": float("nan")}, "--cache-gb must be above 0"),
        ({"memory_gb": -1.0}, "--memory-gb must be at least 0"),
        ({"memory_gb": float("nan")}, "--memory-gb must be at least 0"),
        ({"steps": -1}, "--steps must be at least 1, or 0"),
        ({"epochs": 0.0}, "--epochs must be above 0"),
        ({"steps_between": (5, 4)}, "--steps-between: give two numbers"),
        ({"steps_between": (0, 4)}, "--steps-between must be at least 1"),
        ({"loader_threads": 0}, "--loader-threads must be at least 1"),
        ({"min_workers": 2}, "--num-workers at least as many"),
        ({"min_workers": 0, "num_workers": 2}, "--min-workers must be at least 1"),
        ({"min_workers": 4, "num_workers": 2}, "--num-workers at least as many"),
        ({"lora": LoRAConfig(-1)}, "--lora.rank must be at least 1, or 0"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(TrainLDM(), **changes).check()


def test_caches_are_a_matter_of_scale() -> None:
    config = TrainLDM()
    config.check()
    other = replace(config, memory_gb=0.0, cache_gb=1.0, loader_threads=1)
    other = replace(other, num_workers=4, min_workers=2)
    other.check()
    assert other.recipe() == config.recipe()
    assert replace(config, seed=1).recipe() != config.recipe()


def test_the_net_that_is_not_chosen_is_not_checked() -> None:
    odd = replace(TrainLDM(), dit=DiTConfig(width=12))
    odd.check()
    with pytest.raises(UserError, match="multiple of 8"):
        replace(odd, denoiser="dit").check()


def test_recipes_of_earlier_versions_are_known_again() -> None:
    recipe = TrainLDM().recipe()
    assert not recipe.keys() & {"denoiser", "dit", "lora"}
    assert not recipe["model"].keys() & {"temporal_positions", "joint_attention_from"}
    other = replace(TrainLDM(), denoiser="dit", dit=DiTConfig(depth=3)).recipe()
    assert other["denoiser"] == "dit" and other["dit"]["depth"] == 3
    # The shape of the net that is not chosen decides nothing.
    assert "model" not in other
    assert replace(TrainLDM(), dit=DiTConfig(depth=3)).recipe() == TrainLDM().recipe()
    # Nor does the shape of adapters that there are none of.
    assert replace(TrainLDM(), lora=LoRAConfig(alpha=16)).recipe() == TrainLDM().recipe()
    adapters = replace(TrainLDM(), lora=LoRAConfig(4)).recipe()["lora"]
    assert adapters == {"rank": 4, "alpha": 8, "layers": "linear"}


@pytest.mark.parametrize(("clips", "steps"), [(10, 100), (1000, 250), (10**6, 400)])
def test_steps_may_be_left_to_the_number_of_clips(clips: int, steps: int) -> None:
    config = TrainLDM(steps=0, epochs=2.0, batch_size=8, steps_between=(100, 400))
    config.check()
    assert config.for_clips(clips).steps == steps
    assert replace(config, steps=5).for_clips(clips).steps == 5


def test_four_frames_are_refused_before_a_training_where_discriminators_join() -> None:
    config = settings("own", "train_vqgan")
    assert isinstance(config, TrainVQGAN)
    config.check_clips(8, 128)
    with pytest.raises(UserError, match=r"clips of 4 frames .*--discriminator\.levels 3"):
        config.check_clips(4, 128)
    replace(config, loss=replace(config.loss, adversarial=0.0)).check_clips(4, 128)
    with pytest.raises(UserError, match="do not divide by 4"):
        config.check_clips(6, 128)
