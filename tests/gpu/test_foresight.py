"""What a dry run says of a training on this GPU."""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from benchmarks.memory import MemoryBatch, random_batch
from benchmarks.sizes import denoiser_size, latent_shape
from pipelines.recipes.presets import PRESETS
from pipelines.training.methods.ldm import LDMMethod
from tests.gpu.test_full_size import CLASSES, small

GIB = 2**30


class Latents:
    """Random ones, and their loader."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def loader(self, split: str, **_: Any) -> Any:
        return self

    def train(self, seed: int, position: int, clips: int) -> Iterator[MemoryBatch]:
        yield random_batch(clips, self.shape, classes=len(CLASSES))

    def close(self) -> None:
        pass


def test_a_step_tells_its_time_and_memory(device: torch.device, rehearsal: bool) -> None:
    pytest.importorskip("av")  # The loader of clips needs it.
    from pipelines.training.foresight import foreseen

    recipe = small(PRESETS["ucf101-small"]()) if rehearsal else PRESETS["ucf101-small"]()
    shape, workers = latent_shape(recipe), 2
    config = replace(recipe.train_ldm, batch_size=2 * workers if rehearsal else 32 * workers)
    data = {"shape": shape, "classes": CLASSES, "fps": [25.0], "mean": [0.0] * 3, "std": [1.0] * 3}
    words = foreseen(config, partial(LDMMethod, data=data), Latents(shape), workers, device)
    assert "a step; a worker takes about " in words
    if device.type == "cuda":
        assert " on 2 GPUs like the one here, " in words
        found = re.search(r"takes about ([\d.]+) GiB of its GPU, ([\d.]+) GiB reserved", words)
        assert found
        allocated, reserved = map(float, found.groups())
        size = denoiser_size(recipe)
        # Weights, averages and moments at least; and at most all that fp32 would keep.
        least, most = size.state_bytes / GIB, (size.state_bytes + 32 * size.saved_bytes) / GIB
        assert least < allocated < 1.5 * most and allocated <= reserved
