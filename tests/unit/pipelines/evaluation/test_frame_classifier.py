"""The built-in detector learns what is easy and judges every video alone."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipelines.evaluation.frame_classifier import FrameClassifier, detect, train_frame_classifier
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
    return FrameClassifier(4, width=8, features=16).eval()


def test_it_learns_to_tell_colours() -> None:
    net = train_frame_classifier(*coloured(30), 3, steps=40, batch_size=32)
    assert not net.training
    videos, labels_N = coloured(30, seed=1)
    assert (detect(net, videos).probabilities_NC.argmax(1) == labels_N).mean() > 0.9


def test_training_is_the_same_for_a_seed() -> None:
    videos, labels_N = coloured(6)
    nets = [
        train_frame_classifier(videos, labels_N, 3, steps=3, batch_size=8, seed=seed)
        for seed in (0, 0, 1)
    ]
    first, again, other = (net.head.weight for net in nets)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_class_without_videos_is_refused() -> None:
    videos, labels_N = coloured(6)
    with pytest.raises(UserError, match="class 1 has no real video"):
        train_frame_classifier(videos[labels_N != 1], labels_N[labels_N != 1], 3, steps=1)


def test_what_it_tells() -> None:
    videos, _ = coloured(5)
    seen = detect(untrained(), videos)
    assert seen.frame_probabilities_NTC.shape == (5, 3, 4)
    assert seen.features_ND.shape == (5, 16)
    assert seen.features_ND.dtype == seen.probabilities_NC.dtype == np.float64
    np.testing.assert_allclose(seen.frame_probabilities_NTC.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(seen.probabilities_NC, seen.frame_probabilities_NTC.mean(1))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_every_video_is_judged_alone(batch: int) -> None:
    videos, _ = coloured(5)
    together, parts = detect(untrained(), videos), detect(untrained(), videos, batch)
    for a, b in zip(together, parts, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_order_of_frames_is_not_judged() -> None:
    videos, _ = coloured(3)
    forwards, backwards = (detect(untrained(), v) for v in (videos, videos[:, ::-1].copy()))
    np.testing.assert_allclose(backwards.features_ND, forwards.features_ND, atol=1e-5)
    turned = backwards.frame_probabilities_NTC[:, ::-1]
    np.testing.assert_allclose(turned, forwards.frame_probabilities_NTC, atol=1e-5)
