"""A small 3D network that classifies whole clips: a detector trained on one's own data.

Shapes: B videos, T frames, H height, W width, C classes, D features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

DIMENSIONS = 64
TIME_STRIDES = (1, 2, 2, 2)
"""Of the layers, whose stride in space is 2."""


class ClipClassifier(nn.Module):
    """Strided 3D convolutions, whose features depend on the order of frames.

    `forward` has the interface of detectors, so that the network can be saved as one.
    """

    def __init__(self, num_classes: int, size: int = 64, width: int = 16) -> None:
        super().__init__()
        self.size = size
        layers: list[nn.Module] = []
        channels = 3
        for level, time_stride in enumerate(TIME_STRIDES):
            out = min(width * 2**level, DIMENSIONS)
            stride = (time_stride, 2, 2)
            layers += [
                nn.Conv3d(channels, out, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm3d(out),
                nn.ReLU(),
            ]
            channels = out
        self.body = nn.Sequential(*layers, nn.Conv3d(channels, DIMENSIONS, 3, padding=1))
        self.head = nn.Linear(DIMENSIONS, num_classes)

    @staticmethod
    def positions(frames: int, size: int) -> int:
        """Positions in time and space that the last layer has of a clip."""
        in_space = math.ceil(size / 2 ** len(TIME_STRIDES))
        return math.ceil(frames / math.prod(TIME_STRIDES)) * in_space**2

    def features(self, videos: Tensor) -> Tensor:
        """Videos uint8 (B, 3, T, H, W) to features (B, 64)."""
        x = videos.float() / 127.5 - 1.0
        if x.shape[3] != self.size or x.shape[4] != self.size:
            b, t = x.shape[0], x.shape[2]
            frames = x.transpose(1, 2).flatten(0, 1)
            frames = F.interpolate(frames, [self.size, self.size], mode="bilinear", antialias=True)
            x = frames.unflatten(0, [b, t]).transpose(1, 2)
        return F.relu(self.body(x)).mean((2, 3, 4))

    def logits(self, videos: Tensor) -> Tensor:
        """Videos uint8 (B, 3, T, H, W) to class scores (B, C)."""
        return self.head(F.dropout(self.features(videos), 0.2, self.training))

    def forward(
        self,
        videos: Tensor,
        rescale: bool = True,
        resize: bool = True,
        return_features: bool = False,
    ) -> Tensor:
        """Class probabilities (B, C), or features (B, 64); see `detectors`."""
        if return_features:
            return self.features(videos)
        return self.head(self.features(videos)).softmax(-1)


def train_clip_classifier(
    net: ClipClassifier, batches: Iterator[tuple[Tensor, Tensor]], steps: int, lr: float, seed: int
) -> Iterator[float]:
    """Train on batches of videos uint8 (B, 3, T, H, W) with labels (B,); yields each loss."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed % 2**64)  # It takes no negative one.
    device = next(net.parameters()).device
    optimizer = torch.optim.AdamW(net.parameters(), lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    net.train()
    for _, (videos, labels) in zip(range(steps), batches, strict=False):
        reach = max(1, videos.shape[-1] // 16)
        videos = videos.roll(tuple(rng.integers(-reach, reach + 1, 2)), dims=(3, 4))
        loss = F.cross_entropy(net.logits(videos.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield loss.item()
    net.eval()


def save_torchscript(net: ClipClassifier, path: Path) -> None:
    """Write the detector as a TorchScript file."""
    torch.jit.save(torch.jit.script(net.cpu().eval()), str(path))
