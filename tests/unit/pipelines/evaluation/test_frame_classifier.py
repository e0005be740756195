"""The built-in detector learns what is easy and judges every video alone."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipelines.evaluation import frame_classifier
from pipelines.evaluation.frame_classifier import (
    FrameClassifier,
    frame_probabilities,
    train_frame_classifier,
)
from vqvdm.errors import UserError

Videos = NDArray[np.uint8]


def coloured(count: int, seed: int = 0) -> tuple[Videos, NDArray[np.int64]]:
    """Noisy videos (N, 3, 16, 16, 3) of one colour each, and which it is."""
    rng = np.random.default_rng(seed)
    labels_N = np.arange(count) % 3
    videos = rng.integers(0, 100, (count, 3, 16, 16, 3))
    videos[np.arange(count), ..., labels_N] += 100
    return videos.astype(np.uint8), labels_N


def untrained() -> FrameClassifier:
    torch.manual_seed(0)
    return FrameClassifier(4).eval()


def test_it_learns_to_tell_colours() -> None:
    net = train_frame_classifier(*coloured(30), 3, steps=40)
    assert not net.training
    videos, labels_N = coloured(30, seed=1)
    assert (frame_probabilities(net, videos).mean(1).argmax(1) == labels_N).mean() > 0.9


def test_training_is_the_same_each_time() -> None:
    videos, labels_N = coloured(6)
    first, again = (
        train_frame_classifier(videos, labels_N, 3, steps=3).head.weight for _ in range(2)
    )
    assert torch.equal(first, again)


def test_a_class_without_videos_is_refused() -> None:
    videos, labels_N = coloured(6)
    with pytest.raises(UserError, match="class 1 has no real video"):
        train_frame_classifier(videos[labels_N != 1], labels_N[labels_N != 1], 3, steps=1)


def test_it_tells_probabilities_of_every_frame() -> None:
    videos, _ = coloured(5)
    found_NTC = frame_probabilities(untrained(), videos)
    assert (found_NTC.shape, found_NTC.dtype) == ((5, 3, 4), np.float64)
    np.testing.assert_allclose(found_NTC.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_every_video_is_judged_alone(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    videos, _ = coloured(5)
    together = frame_probabilities(untrained(), videos)
    monkeypatch.setattr(frame_classifier, "VIDEOS_AT_ONCE", at_once)
    np.testing.assert_allclose(frame_probabilities(untrained(), videos), together, atol=1e-5)


def test_every_frame_is_judged_alone() -> None:
    videos, _ = coloured(3)
    forwards, backwards = (
        frame_probabilities(untrained(), each) for each in (videos, videos[:, ::-1].copy())
    )
    np.testing.assert_allclose(backwards[:, ::-1], forwards, atol=1e-5)
