"""Small trainings of both stages and of a student, and a batch for any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.memory import MemoryBatch
from pipelines.training.methods.base import Method
from pipelines.training.methods.distil import DistilMethod
from pipelines.training.methods.ldm import LDMMethod
from pipelines.training.methods.vqgan import VQGANMethod
from pipelines.training.settings import DistillLDM, TrainInflated, TrainLDM, TrainVQGAN
from pipelines.training.world import World
from vqvdm.diffusion.conditioning import NetInputs
from vqvdm.diffusion.dit import DiTConfig
from vqvdm.diffusion.known_latents import ConditioningConfig
from vqvdm.diffusion.lora import LoRAConfig
from vqvdm.diffusion.unet import UNet, UNetConfig
from vqvdm.tokenizer.discriminator import DiscriminatorConfig
from vqvdm.tokenizer.inflated import InflatedConfig
from vqvdm.tokenizer.losses import LossConfig
from vqvdm.tokenizer.vqgan import VQGANConfig


def batch() -> MemoryBatch:
    g = torch.Generator().manual_seed(0)
    tensors = {
        "video": torch.randint(0, 256, (4, 4, 16, 16, 3), dtype=torch.uint8, generator=g),
        "latent": torch.randn(4, 3, 2, 4, 4, generator=g),
        "class_index": torch.tensor([0, 1, -1, 0]),
        "fps": torch.tensor([8.0, 8.0, 8.0, 8.0]),
        "text": torch.randn(4, 5, generator=g) * torch.tensor([[1.0], [0.0], [1.0], [1.0]]),
    }
    return MemoryBatch(tensors)


def vqgan(world: World, quantizer: str, size: int, accumulate: int) -> VQGANMethod:
    net = VQGANConfig(((2, 4, 4),), (8,), (1,), quantizer=quantizer, codebook_size=size)  # type: ignore[arg-type]
    config = TrainVQGAN(
        steps=10,
        batch_size=4,
        accumulate=accumulate,
        model=net,
        discriminator=DiscriminatorConfig(width=8, levels=2),
        loss=LossConfig(adversarial_start=0.0, adversarial_ramp=0.0, feature_matching=1.0),
    )
    return VQGANMethod(config, world)


def inflated(world: World, accumulate: int) -> VQGANMethod:
    """A tokenizer out of an image autoencoder, its layers in time as they begin, at random."""
    config = TrainInflated(
        steps=10,
        batch_size=4,
        accumulate=accumulate,
        inflated=InflatedConfig((8, 8), 1, 3, 4, group=2),
        discriminator=DiscriminatorConfig(width=8, levels=2),
        loss=LossConfig(adversarial_start=0.0, adversarial_ramp=0.0),
    )
    return VQGANMethod(config, world)


INDEX = {
    "shape": [3, 2, 4, 4], "classes": ["a", "b"], "fps": [8.0],
    "mean": [0.0] * 3, "std": [1.0] * 3,
}  # fmt: skip
DENOISER = UNetConfig(width=8, multipliers=(1, 2), depths=(1, 1), head_width=8)


def ldm(world: World, accumulate: int) -> LDMMethod:
    config = TrainLDM(steps=10, batch_size=4, accumulate=accumulate, model=DENOISER)
    return LDMMethod(config, world, INDEX)


DIT = DiTConfig(width=16, depth=2, head_width=8)


def dit(world: World, accumulate: int) -> LDMMethod:
    config = TrainLDM(steps=10, batch_size=4, accumulate=accumulate, denoiser="dit", dit=DIT)
    return LDMMethod(config, world, INDEX)


CAPTIONED: dict[str, Any] = INDEX | {
    "text": {
        "column": "caption", "files": {"config.json": "0"}, "width": 5, "mean": [0.1] * 5,
        "std": 0.5, "clips": 3,
    }
}  # fmt: skip


def captions(world: World, accumulate: int) -> LDMMethod:
    told = ConditioningConfig(0.5)
    config = TrainLDM(
        steps=10, batch_size=4, accumulate=accumulate, model=DENOISER, conditioning=told
    )
    return LDMMethod(config, world, CAPTIONED)


def teacher(latent_channels: int = 3, classes: int = 2, told: bool = False) -> UNet:
    """A net that says something, as a trained one does; `told`, it takes captions and frames."""
    torch.manual_seed(7)
    width = CAPTIONED["text"]["width"] if told else 0
    net = UNet(DENOISER, NetInputs(latent_channels, classes, known_frames=told, text_width=width))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net


def distil(world: World, accumulate: int) -> DistilMethod:
    config = DistillLDM(steps=10, batch_size=4, accumulate=accumulate)
    return DistilMethod(config, world, INDEX, teacher())


def told_student(world: World, accumulate: int = 1, **changes: Any) -> DistilMethod:
    """A student that takes captions and frames, as its teacher does."""
    config = DistillLDM(steps=10, batch_size=4, warmup=1, accumulate=accumulate, **changes)
    given = ConditioningConfig(0.5)
    return DistilMethod(config, world, CAPTIONED, teacher(told=True), conditioning=given)


@dataclass
class Given:
    """Weights to begin with, in memory."""

    state: dict[str, Tensor]
    classes: tuple[str, ...] = ("a", "b")

    def weights(self) -> dict[str, Tensor]:
        return self.state


def begun_lora(config: TrainLDM, world: World) -> LDMMethod:
    """A training of adapters that has begun with a net that has something to learn."""
    state = teacher().state_dict()
    state["last.2.weight"] *= 2
    method = LDMMethod(config, world, INDEX, initial=Given(state))
    assert method.start()
    return method


def lora(world: World, accumulate: int) -> LDMMethod:
    adapters = LoRAConfig(rank=2, layers="all")
    config = TrainLDM(steps=10, batch_size=4, accumulate=accumulate, model=DENOISER, lora=adapters)
    return begun_lora(config, world)


METHODS: dict[str, Callable[[World, int], Method]] = {
    "fsq": lambda world, accumulate: vqgan(world, "fsq", 16, accumulate),
    "vq": lambda world, accumulate: vqgan(world, "vq", 16, accumulate),
    "more codes than latents": lambda world, accumulate: vqgan(world, "vq", 400, accumulate),
    "inflated": inflated,
    "ldm": ldm,
    "dit": dit,
    "captions": captions,
    "distil": told_student,
    "lora": lora,
}
