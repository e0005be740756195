"""A classifier of single frames, trained on the spot: does every frame show its class?

Shapes: N videos, F frames, T frames a video, H height, W width, C classes.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from vqvdm.errors import UserError

FEATURES = 128
BATCH_SIZE = 128
"""Frames a step of training."""
VIDEOS_AT_ONCE = 32
"""Videos that are judged at a time."""


class FrameClassifier(nn.Module):
    """A small 2D convolutional classifier of single frames."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for level in range(4):
            out = min(32 * 2**level, FEATURES)
            layers += [
                nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(),
            ]
            channels = out
        self.body = nn.Sequential(*layers, nn.Conv2d(channels, FEATURES, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(FEATURES, num_classes)

    def forward(self, frames_F3HW: Tensor) -> Tensor:
        """Frames in [-1, 1] to logits (F, C): where in the frame something is does not matter."""
        features_FD = self.body(frames_F3HW).amax(dim=(2, 3))
        return self.head(F.dropout(features_FD, 0.3, self.training))


def _frames(videos_NTHWC: NDArray[np.uint8]) -> Tensor:
    frames = rearrange(torch.from_numpy(videos_NTHWC), "n t h w c -> (n t) c h w")
    return frames.float().div_(127.5).sub_(1)


def train_frame_classifier(
    videos_NTHWC: NDArray[np.uint8],
    labels_N: NDArray[np.int64],
    num_classes: int,
    steps: int,
) -> FrameClassifier:
    """Train a classifier on single frames of labelled real videos, shifted at random.

    Raises `UserError` where a class has no video.
    """
    missing = sorted(set(range(num_classes)) - set(labels_N.tolist()))
    if missing:
        raise UserError(f"class {missing[0]} has no real video: a classifier needs some of each")
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    net = FrameClassifier(num_classes)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    count, length = videos_NTHWC.shape[:2]
    for _ in range(steps):
        refs = rng.integers(0, count, BATCH_SIZE), rng.integers(0, length, BATCH_SIZE)
        frames = _frames(videos_NTHWC[refs][:, None])
        frames = frames.roll(tuple(rng.integers(-4, 5, 2)), dims=(2, 3))
        labels = torch.from_numpy(labels_N[refs[0]])
        loss = F.cross_entropy(net(frames), labels, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


@torch.inference_mode()
def frame_probabilities(
    net: FrameClassifier, videos_NTHWC: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Class probabilities (N, T, C) of every frame, each judged alone."""
    device = next(net.parameters()).device
    found = []
    for start in range(0, len(videos_NTHWC), VIDEOS_AT_ONCE):
        part = videos_NTHWC[start : start + VIDEOS_AT_ONCE]
        logits = net(_frames(part).to(device))
        found.append(rearrange(logits.softmax(-1), "(n t) c -> n t c", n=len(part)))
    return torch.cat(found).double().cpu().numpy()
