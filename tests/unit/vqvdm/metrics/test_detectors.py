"""Detectors are TorchScript files with one interface; anything else is refused in words."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vqvdm.errors import UserError
from vqvdm.metrics import detectors
from vqvdm.metrics.builtin import DIMENSIONS, builtin_detector
from vqvdm.metrics.detectors import Detector, load_detector


class Both(nn.Module):
    """Probabilities, or features: the mean of each colour and a constant."""

    def forward(
        self,
        videos: Tensor,
        rescale: bool = True,
        resize: bool = True,
        return_features: bool = False,
    ) -> Tensor:
        means = videos.float().mean((2, 3, 4)) / 255
        if return_features:
            return means
        return means.softmax(1)


class ProbabilitiesOnly(nn.Module):
    def forward(self, videos: Tensor) -> Tensor:
        return videos.float().mean((2, 3, 4)).softmax(1)


class Wrong(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(
        self,
        videos: Tensor,
        rescale: bool = True,
        resize: bool = True,
        return_features: bool = True,
    ) -> Tensor:
        means = videos.float().mean((2, 3, 4))
        if self.kind == "sum":
            return means.sum()
        if self.kind == "nan":
            return means / 0.0 * 0.0
        if self.kind == "raise":
            return means.view(7, 7)
        return means


VIDEOS = np.random.default_rng(0).integers(0, 256, (5, 4, 8, 8, 3)).astype(np.uint8)


def saved(path: Path, net: nn.Module) -> Path:
    torch.jit.save(torch.jit.script(net), str(path))
    return path


def test_a_file_gives_features_and_probabilities(tmp_path: Path) -> None:
    detector = load_detector(saved(tmp_path / "both.pt", Both()), "both")
    features = detector.features(VIDEOS, batch=2)
    np.testing.assert_allclose(features, VIDEOS.mean((1, 2, 3)) / 255, rtol=1e-5)
    probabilities = detector.probabilities(VIDEOS)
    expected = np.exp(features) / np.exp(features).sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)


def test_the_file_of_c3d_knows_probabilities_only(tmp_path: Path) -> None:
    detector = load_detector(saved(tmp_path / "c3d.pt", ProbabilitiesOnly()), "c3d")
    np.testing.assert_allclose(detector.probabilities(VIDEOS).sum(1), 1, rtol=1e-5)
    with pytest.raises(UserError, match="c3d gives class probabilities and no features"):
        detector.features(VIDEOS)


def test_the_checksum_is_checked(tmp_path: Path) -> None:
    path = saved(tmp_path / "both.pt", Both())
    found = load_detector(path, "both").sha256
    assert load_detector(path, "both", found.upper()).sha256 == found
    with pytest.raises(UserError, match=f"sha256 {found}, not 1234"):
        load_detector(path, "both", "1234")


@pytest.mark.parametrize("name", ["i3d_rgb_imagenet.pt", "i3d.pt", "pickle.pt", "text.pt"])
def test_wrong_files_are_recognised_unopened(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "text.pt":
        path.write_text("not a network")
    else:
        torch.save(Both().state_dict(), path, _use_new_zipfile_serialization=name != "pickle.pt")
    with pytest.raises(UserError, match=r"i3d_torchscript\.pt"):
        load_detector(path, "i3d")


def test_the_wrong_i3d_is_recognised_by_its_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Under an innocent name, and even as TorchScript: the checksum decides.
    path = saved(tmp_path / "i3d_torchscript.pt", Both())
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(detectors, "WRONG_SHA256", frozenset({checksum}))
    with pytest.raises(UserError, match=r"is i3d_rgb_imagenet\.pt, the wrong I3D"):
        load_detector(path, "i3d")


@pytest.mark.parametrize(
    ("kind", "words"),
    [("sum", "where features"), ("nan", "NaN"), ("raise", "cannot take videos of")],
)
def test_wrong_output_is_refused(kind: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Detector(Wrong(kind), "wrong", "0").features(VIDEOS)


def test_scores_are_no_probabilities() -> None:
    with pytest.raises(UserError, match="no class probabilities"):
        Detector(Wrong("means"), "wrong", "0").probabilities(VIDEOS)


def test_the_builtin_detector_changes_nothing_around_it() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    from vqvdm.metrics import builtin

    builtin._weights.cache_clear()
    detector = builtin_detector()
    assert (torch.rand(1), np.random.rand()) == expected
    assert not torch.are_deterministic_algorithms_enabled()
    videos = np.random.default_rng(0).integers(0, 256, (3, 16, 40, 40, 3)).astype(np.uint8)
    features = detector.features(videos)
    assert features.shape == (3, DIMENSIONS)
    np.testing.assert_allclose(detector.features(videos[1:2]), features[1:2], atol=1e-4)
    with pytest.raises(UserError, match="no class probabilities"):
        detector.probabilities(videos)
