"""The published pixel-space diffusion model: `video-diffusion-pytorch`, its U-Net of width 64.

Its sampling step is run as it stands, on clips of 16x64x64.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

FRAMES, SIZE, STEPS = 16, 64, 100
CONDITION_WIDTH = 512
"""Of the vector that stands for the class, as wide as our own embedding."""


def package() -> ModuleType:
    """The package without torchvision, which it has for its GIF helpers only.

    torchvision's wheels work beside the very build of torch they were compiled for, and no other.
    """
    absent = {name: ModuleType(name) for name in ("torchvision",)}
    for name in ("transforms", "utils"):
        setattr(absent["torchvision"], name, ModuleType(name))
    absent["torchvision"].transforms.ToTensor = object
    with patch.dict(sys.modules, absent):
        import video_diffusion_pytorch
    return video_diffusion_pytorch


@dataclass
class PixelDiffusion:
    """Clips of pixels by DDPM, a step at a time."""

    diffusion: Any
    weights: torch.dtype = torch.float32
    autocast: bool = False
    """Compute in bf16, weights staying in fp32."""

    @classmethod
    def build(
        cls, weights: torch.dtype = torch.float32, autocast: bool = False, classes: bool = False
    ) -> PixelDiffusion:
        package_ = package()
        condition = CONDITION_WIDTH if classes else None
        net = package_.Unet3D(dim=64, dim_mults=(1, 2, 4, 8), cond_dim=condition)
        diffusion = package_.GaussianDiffusion(
            net, image_size=SIZE, num_frames=FRAMES, timesteps=STEPS
        )
        net.to(weights)
        return cls(diffusion.eval().requires_grad_(False), weights, autocast)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.diffusion.parameters())

    @torch.inference_mode()
    def steps(self, count: int, guidance: float | None = None) -> Tensor:
        """The first steps of sampling one clip; `guidance` evaluates with and without the class."""
        x_BCTHW = torch.randn(1, 3, FRAMES, SIZE, SIZE, dtype=self.weights)
        settings = {}
        if guidance is not None:
            condition = torch.randn(1, CONDITION_WIDTH, dtype=self.weights)
            settings = {"cond": condition, "cond_scale": guidance}
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            for step in range(STEPS - 1, STEPS - 1 - count, -1):
                time_B = torch.full((1,), step, dtype=torch.long)
                x_BCTHW = self.diffusion.p_sample(x_BCTHW, time_B, **settings)
        return x_BCTHW
