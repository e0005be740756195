"""Compiled nets, with CUDA graphs, sample and train what eager ones do."""

from pathlib import Path

import pytest
import torch

from pipelines.training.world import World
from tests.agreement import TOLERANCE, differing, relative_error
from tests.tiny import write_bundle
from tests.trainings import METHODS, batch
from vqvdm.generator import VideoGenerator
from vqvdm.inference import GRAPHS
from vqvdm.tokenizer.vqgan import VQGANConfig


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_samples(precision: str, device: torch.device, rehearsal: bool, tmp_path: Path) -> None:
    bundle = write_bundle(
        tmp_path, tokenizer=VQGANConfig(((4, 8, 8),), (8,), (1,), codebook_size=64)
    )
    if rehearsal and precision == "bf16":
        pytest.skip("one precision is enough to rehearse")
    eager, compiled = (VideoGenerator.load(bundle, device, precision) for _ in range(2))  # type: ignore[arg-type]
    compiled.compile(*(("eager",) if rehearsal else ("inductor", GRAPHS)))
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    for sampler in ("euler", "heun", "dpm"):
        for seed in range(2):  # a graph is recorded, then replayed
            z, z_compiled = (
                made.sample_latents(["zero", "seven"], 8.0, seed=seed, steps=4, sampler=sampler)
                for made in (eager, compiled)
            )
            assert relative_error(z_compiled, z) < TOLERANCE[dtype]
        decoded, again = eager.vqgan.decode(z), compiled.vqgan.decode(z)
        assert relative_error(again, decoded) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", ["vq", "ldm"])
def test_steps(name: str, device: torch.device, rehearsal: bool) -> None:
    if rehearsal and name == "vq":
        pytest.skip("one method is enough to rehearse; test_onset.py compiles the other")
    backend = "eager" if rehearsal else "inductor"
    compiled = World(device=device, compiled=True, backend=backend)
    for step, (found, expected) in enumerate(
        zip(*(_steps(name, world) for world in (compiled, World(device=device))), strict=True)
    ):
        assert differing(found, expected) == {}, step


def _steps(name: str, world: World) -> list[dict[str, torch.Tensor]]:
    method = METHODS[name](world, 1)
    return [
        dict(method.train_step(batch(), step)) for step in (0, 1, 2, 8)
    ]  # graphs are recorded, then replayed
