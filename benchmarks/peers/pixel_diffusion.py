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
    device: torch.device | str = "cpu"
    size: int = SIZE
    """Height and width of a clip."""

    @classmethod
    def build(
        cls,
        weights: torch.dtype = torch.float32,
        autocast: bool = False,
        classes: bool = False,
        device: torch.device | str = "cpu",
        width: int = 64,
        size: int = SIZE,
    ) -> PixelDiffusion:
        package_ = package()
        condition = CONDITION_WIDTH if classes else None
        net = package_.Unet3D(dim=width, dim_mults=(1, 2, 4, 8), cond_dim=condition)
        diffusion = package_.GaussianDiffusion(
            net, image_size=size, num_frames=FRAMES, timesteps=STEPS
        )
        net.to(weights)
        diffusion.eval().requires_grad_(False).to(device)
        return cls(diffusion, weights, autocast, device, size)

    def compile(self, **options: Any) -> None:
        """Compile the U-Net, which the package calls by its method `forward`."""
        net = self.diffusion.denoise_fn
        net.forward = torch.compile(net.forward, dynamic=False, **options)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.diffusion.parameters())

    @torch.inference_mode()
    def steps(self, count: int, guidance: float | None = None, clips: int = 1) -> Tensor:
        """The first steps of sampling clips; `guidance` evaluates with and without the class."""
        shape = (clips, 3, FRAMES, self.size, self.size)
        x_BCTHW = torch.randn(shape, dtype=self.weights, device=self.device)
        settings = {}
        if guidance is not None:
            condition = torch.randn(clips, CONDITION_WIDTH, dtype=self.weights, device=self.device)
            settings = {"cond": condition, "cond_scale": guidance}
        kind = torch.device(self.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=self.autocast):
            for step in range(STEPS - 1, STEPS - 1 - count, -1):
                time_B = torch.full((clips,), step, dtype=torch.long, device=self.device)
                x_BCTHW = self.diffusion.p_sample(x_BCTHW, time_B, **settings)
        return x_BCTHW
