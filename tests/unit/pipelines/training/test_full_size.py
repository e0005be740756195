"""Every preset takes a training step at its full size, one clip a batch."""

import pytest
import torch

from benchmarks.sizes import latent_shape
from pipelines.recipes.presets import PRESETS
from pipelines.training.loader import Batch
from pipelines.training.methods.base import Method
from pipelines.training.methods.ldm import LDMMethod
from pipelines.training.methods.vqgan import VQGANMethod
from pipelines.training.settings import PIXEL_SPACE
from pipelines.training.world import World

CLASSES = [f"class {index}" for index in range(101)]


def takes_a_step(method: Method, batch: Batch, step: int) -> None:
    metrics = method.train_step(batch, step)
    assert metrics["loss"].isfinite()
    assert metrics["gradient_norm"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_the_generator(preset: str) -> None:
    recipe = PRESETS[preset]()
    shape = latent_shape(recipe)
    data = {"shape": shape, "classes": CLASSES, "fps": [25.0], "mean": [0.0] * 3, "std": [1.0] * 3}
    batch = Batch(
        ["a"],
        {
            "latent": torch.randn(1, *shape),
            "class_index": torch.tensor([7]),
            "fps": torch.tensor([25.0]),
        },
    )
    config = recipe.train_ldm.for_clips(1000)
    takes_a_step(LDMMethod(config, World(), data), batch, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset", [name for name in PRESETS if PRESETS[name]().train_ldm.vqgan != PIXEL_SPACE]
)
def test_the_tokenizer_and_its_discriminators(preset: str) -> None:
    recipe = PRESETS[preset]()
    spec, config = recipe.shard_videos, recipe.train_vqgan.for_clips(1000)
    shape = (1, spec.frames, spec.size, spec.size, 3)
    batch = Batch(["a"], {"video": torch.randint(0, 256, shape, dtype=torch.uint8)})
    # At the last step the discriminators have a weight.
    takes_a_step(VQGANMethod(config, World()), batch, config.steps - 1)
