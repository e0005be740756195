"""A classifier of single frames, trained on the spot: does every frame show its class?

Shapes: N videos, F frames, T frames a video, H height, W width, C classes, D features.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from vqvdm.errors import UserError


class Detection(NamedTuple):
    """What the classifier sees in N videos of T frames."""

    frame_probabilities_NTC: NDArray[np.float64]
    features_ND: NDArray[np.float64]

    @property
    def probabilities_NC(self) -> NDArray[np.float64]:
        """Class probabilities of whole videos: the mean over their frames."""
        return self.frame_probabilities_NTC.mean(axis=1)


class FrameClassifier(nn.Module):
    """A small 2D convolutional classifier of single frames."""

    def __init__(self, num_classes: int, width: int = 32, features: int = 128) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for level in range(4):
            out = min(width * 2**level, 128)
            layers += [
                nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(),
            ]
            channels = out
        self.body = nn.Sequential(*layers, nn.Conv2d(channels, features, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(features, num_classes)

    def features(self, frames_F3HW: Tensor) -> Tensor:
        """Frames in [-1, 1] to features (F, D): where the digit is does not matter."""
        return self.body(frames_F3HW).amax(dim=(2, 3))

    def forward(self, frames_F3HW: Tensor) -> Tensor:
        return self.head(F.dropout(self.features(frames_F3HW), 0.3, self.training))


def _frames(videos_NTHWC: NDArray[np.uint8]) -> Tensor:
    frames = rearrange(torch.from_numpy(videos_NTHWC), "n t h w c -> (n t) c h w")
    return frames.float().div_(127.5).sub_(1)


def train_frame_classifier(
    videos_NTHWC: NDArray[np.uint8],
    labels_N: NDArray[np.int64],
    num_classes: int,
    steps: int = 400,
    batch_size: int = 128,
    seed: int = 0,
) -> FrameClassifier:
    """Train a classifier on single frames of labelled real videos, shifted at random.

    Raises `UserError` where a class has no video.
    """
    missing = sorted(set(range(num_classes)) - set(labels_N.tolist()))
    if missing:
        raise UserError(f"class {missing[0]} has no real video: a classifier needs some of each")
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    net = FrameClassifier(num_classes)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    count, length = videos_NTHWC.shape[:2]
    for _ in range(steps):
        refs = rng.integers(0, count, batch_size), rng.integers(0, length, batch_size)
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
def detect(net: FrameClassifier, videos_NTHWC: NDArray[np.uint8], batch: int = 32) -> Detection:
    """Judge every frame alone; a video's features are the mean over its frames."""
    device = next(net.parameters()).device
    probabilities, features = [], []
    for start in range(0, len(videos_NTHWC), batch):
        part = videos_NTHWC[start : start + batch]
        seen = net.features(_frames(part).to(device))
        n = len(part)
        probabilities.append(rearrange(net.head(seen).softmax(-1), "(n t) c -> n t c", n=n))
        features.append(rearrange(seen, "(n t) d -> n t d", n=n).mean(1))
    return Detection(
        *(torch.cat(each).double().cpu().numpy() for each in (probabilities, features))
    )
