"""A detector of one's own learns classes, sees the order of frames, and is a TorchScript file."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vqvdm.metrics.clip_classifier import (
    DIMENSIONS,
    ClipClassifier,
    save_torchscript,
    train_clip_classifier,
)
from vqvdm.metrics.detectors import load_detector


def moving(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """A bar that moves to the right or to the left: single frames do not tell which."""
    rng = np.random.default_rng(seed)
    videos, labels = np.zeros((count, 3, 8, 16, 16), np.uint8), np.arange(count) % 2
    for video, label in zip(videos, labels, strict=True):
        start = rng.integers(16)
        for t in range(8):
            video[:, t, :, (start + (1 if label else -1) * 2 * t) % 16] = 255
    return torch.from_numpy(videos), torch.from_numpy(labels)


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    seed = 0
    while True:
        seed += 1
        yield moving(16, seed)


def test_it_learns_what_only_motion_tells(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = ClipClassifier(2, size=16, width=8)
    losses = list(train_clip_classifier(net, batches(), 60, 1e-2, seed=0))
    assert len(losses) == 60 and not net.training
    videos, labels = moving(40, 999)
    assert (net(videos).argmax(1) == labels).float().mean() > 0.9
    assert (net(videos.flip(2)).argmax(1) == labels).float().mean() < 0.1

    save_torchscript(net, tmp_path / "detector.pt")
    detector = load_detector(tmp_path / "detector.pt", "own")
    frames = videos.permute(0, 2, 3, 4, 1).numpy()
    probabilities = detector.probabilities(frames)
    np.testing.assert_allclose(probabilities, net(videos).detach().numpy(), atol=1e-5)
    assert detector.features(frames).shape == (40, DIMENSIONS)


def test_other_sizes_are_resized(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = ClipClassifier(3, size=16).eval()
    small = torch.randint(0, 256, (2, 3, 8, 16, 16), dtype=torch.uint8)
    large = small.repeat_interleave(2, 3).repeat_interleave(2, 4)
    assert net(large).shape == (2, 3)
    save_torchscript(net, tmp_path / "detector.pt")
    scripted = torch.jit.load(tmp_path / "detector.pt")
    torch.testing.assert_close(scripted(large), net(large))
