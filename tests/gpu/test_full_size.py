"""Every preset trains at its full size with its defaults, past the step at which the
discriminators join."""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.memory import random_batch
from benchmarks.sizes import (
    Size,
    denoiser_size,
    discriminators_size,
    latent_shape,
    tokenizer_size,
)
from pipelines.recipes.presets import PRESETS, Preset
from pipelines.training.methods.base import Method
from pipelines.training.methods.ldm import LDMMethod
from pipelines.training.methods.vqgan import VQGANMethod
from pipelines.training.settings import PIXEL_SPACE, TrainJob
from pipelines.training.world import World
from tests.agreement import TOLERANCE, relative_error
from vqvdm.diffusion.conditioning import NetInputs
from vqvdm.diffusion.unet import UNet
from vqvdm.inference import prepare_device, resolve_precision

CLASSES = [f"class {index}" for index in range(101)]
STEPS = 20


def small(preset: Preset) -> Preset:
    """The same recipe with thin nets and small clips, to rehearse on a CPU."""
    vqgan, ldm = preset.train_vqgan, preset.train_ldm
    return replace(
        preset,
        shard_videos=replace(preset.shard_videos, frames=8, size=32),
        train_vqgan=replace(
            vqgan, steps=5, batch_size=2, discriminator=replace(vqgan.discriminator, width=8),
            model=replace(
                vqgan.model, widths=(8,) * len(vqgan.model.widths), codebook_size=16,
                decoder_widths=None, decoder_depths=None,
            ),
        ),
        train_ldm=replace(
            ldm, steps=5, batch_size=2,
            model=replace(ldm.model, width=8, head_width=8, spatial_attention_from=1),
        ),
    )  # fmt: skip


def world_of(config: TrainJob, device: torch.device, rehearsal: bool, compiled: bool) -> World:
    """What a worker of a training makes of the defaults."""
    dtype = torch.float32 if rehearsal else resolve_precision(config.precision, device)
    prepare_device(device, tf32=dtype != torch.float32)
    backend = "aot_eager" if rehearsal else "inductor"
    return World(device=device, dtype=dtype, compiled=compiled, backend=backend)


def parts(device: torch.device, nets: list[Size], batch_size: int) -> int:
    """Parts in which a batch fits into the memory of a GPU, as `--accumulate`; what is kept is
    estimated for fp32."""
    if device.type != "cuda":
        return 1
    room = 0.8 * torch.cuda.mem_get_info(device)[0] - sum(net.state_bytes for net in nets)
    saved_bytes = sum(net.saved_bytes for net in nets)
    return next(n for n in (1, 2, 4, 8, 16, 32) if batch_size / n * saved_bytes < room)


def train(make: Callable[[], Method], inputs: dict[str, Any], config: TrainJob) -> dict[str, float]:
    """The metrics of the last of all steps of a short training."""
    method = make()
    for step in range(config.steps):
        metrics = method.train_step(random_batch(config.batch_size, **inputs), step)
    found = {name: value.item() for name, value in metrics.items()}
    if torch.cuda.is_available():
        print(f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at the peak")
        torch.cuda.reset_peak_memory_stats()
    assert found["skipped_steps"] == 0
    assert math.isfinite(found["loss"])
    assert found["gradient_norm"] > 0
    return found


def distinct(stage: Callable[[Preset], Any], wanted: Callable[[Preset], bool]) -> list[str]:
    """Presets, of those that train the same the first one."""
    seen: list[Any] = []
    names = []
    for name, preset in PRESETS.items():
        recipe = preset()
        if wanted(recipe) and stage(recipe) not in seen:
            seen.append(stage(recipe))
            names.append(name)
    return sorted(names, key=lambda name: name != "ucf101-small")  # the one that matters most first


TOKENIZERS = distinct(
    lambda p: (p.train_vqgan.model, p.shard_videos.size), lambda p: p.train_ldm.vqgan != PIXEL_SPACE
)
DENOISERS = distinct(lambda p: (p.train_ldm.model, latent_shape(p)), lambda p: True)


def eager_first(presets: list[str]) -> pytest.MarkDecorator:
    """Compiling, the default on a GPU, takes a minute for each: as far as the time allows."""
    pairs = [(preset, compiled) for compiled in (False, True) for preset in presets]
    ids = [f"{preset}-{'compiled' if compiled else 'eager'}" for preset, compiled in pairs]
    return pytest.mark.parametrize(("preset", "compiled"), pairs, ids=ids)


@eager_first(DENOISERS)
def test_the_generator(preset: str, compiled: bool, device: torch.device, rehearsal: bool) -> None:
    if compiled and rehearsal:
        pytest.skip("compiling is rehearsed in test_compiled.py")
    recipe = small(PRESETS[preset]()) if rehearsal else PRESETS[preset]()
    config = replace(recipe.train_ldm, steps=5 if rehearsal else STEPS)
    shape = latent_shape(recipe)
    in_parts = parts(device, [denoiser_size(recipe)], config.batch_size)
    config = replace(config, accumulate=in_parts)
    data = {"shape": shape, "classes": CLASSES, "fps": [25.0], "mean": [0.0] * 3, "std": [1.0] * 3}
    world = world_of(config, device, rehearsal, compiled)
    inputs = {"latent": shape, "classes": 101}
    train(lambda: LDMMethod(config, world, data), inputs, config)


@eager_first(TOKENIZERS)
def test_the_tokenizer_and_its_discriminators(
    preset: str, compiled: bool, device: torch.device, rehearsal: bool
) -> None:
    if compiled and rehearsal:
        pytest.skip("compiling is rehearsed in test_compiled.py")
    recipe = small(PRESETS[preset]()) if rehearsal else PRESETS[preset]()
    config, spec = recipe.train_vqgan, recipe.shard_videos
    config = replace(config, steps=5 if rehearsal else STEPS)
    nets = [tokenizer_size(recipe), discriminators_size(recipe)]
    in_parts = parts(device, nets, config.batch_size)
    config = replace(config, accumulate=in_parts)
    world = world_of(config, device, rehearsal, compiled)
    inputs = {"clip": (spec.frames, spec.size, spec.size)}
    metrics = train(lambda: VQGANMethod(config, world), inputs, config)
    assert metrics["adversarial_weight"] > 0
    assert metrics["adversarial_balance"] > 0


@pytest.mark.parametrize(("preset", "count"), [("ucf101-small", 256), ("vdm", 8)])
def test_more_sequences_than_a_grid_takes(
    preset: str, count: int, device: torch.device, rehearsal: bool
) -> None:
    """256 clips of `ucf101-small` and 8 of `vdm` have more than 65,535 positions with frames."""
    recipe = small(PRESETS[preset]()) if rehearsal else PRESETS[preset]()
    shape, count = latent_shape(recipe), 2 if rehearsal else count
    if not rehearsal:
        assert count * shape[2] * shape[3] > 30_000
    net = UNet(recipe.train_ldm.model, NetInputs(shape[0], 101))
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    z_BCTHW = torch.randn(count, *shape)
    conditions = torch.rand(count), torch.randint(0, 101, (count,)), torch.full((count,), 25.0)
    with torch.no_grad():  # two clips tell: clips do not see each other
        expected = net(z_BCTHW[-2:], *(each[-2:] for each in conditions))
    there = copy.deepcopy(net).to(device)
    inputs = [each.to(device) for each in (z_BCTHW, *conditions)]
    with torch.autocast(device.type, torch.bfloat16, enabled=not rehearsal):
        y = there(*inputs)
    y.float().square().mean().backward()
    tolerance = TOLERANCE[torch.float32 if rehearsal else torch.bfloat16]
    assert relative_error(y[-2:], expected) < tolerance
    assert all(p.grad is not None and p.grad.isfinite().all() for p in there.parameters())
    assert asdict(net.config) == asdict(recipe.train_ldm.model)
