"""What is extracted from videos, and how it is cached."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

from pipelines.evaluation.detectors import DetectorFile
from pipelines.evaluation.features import FeatureExtractor, FeatureSpec, cached, unpack
from pipelines.evaluation.frame_classifier import FrameClassifier, frame_probabilities
from pipelines.io import storage
from tests.unit.vqvdm.metrics.test_detectors import VIDEOS, Both, saved
from vqvdm.errors import UserError


def spec_of(folder: Path, **changes: object) -> FeatureSpec:
    path = saved(folder / "both.pt", Both())
    file = DetectorFile("both", str(path), storage.sha256(str(path)))
    settings = {"detector": file, "classifier": file, "frames": None, "lpips": None}
    return FeatureSpec(**(settings | {"motion": True, "ssim": True, "thumbnails": True} | changes))  # type: ignore


def test_a_row_for_every_video(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = FrameClassifier(3).eval()
    extractor = FeatureExtractor(spec_of(tmp_path, frames=save(net.state_dict())))
    labels = np.array([0, 1, 2, 0, 1])
    seen = extractor.extract(VIDEOS, labels, np.full(5, 8.0))
    assert {len(rows) for rows in seen.values()} == {5}
    found = frame_probabilities(net, VIDEOS).mean(1)
    assert seen["clip_right"].tolist() == (found.argmax(1) == labels).tolist()
    np.testing.assert_allclose(seen["probabilities"].sum(1), 1, rtol=1e-5)


def test_only_requested_features_are_extracted(tmp_path: Path) -> None:
    plain = spec_of(tmp_path, detector=None, classifier=None, motion=False, thumbnails=False)
    assert set(FeatureExtractor(plain).extract(VIDEOS, np.zeros(5), np.ones(5))) == {
        "class_index",
        "fps",
    }


def test_reconstructions_against_scikit_image(tmp_path: Path) -> None:
    videos = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 20, 3)).astype(np.uint8)
    made = (videos // 2 + 50).astype(np.uint8)
    seen = FeatureExtractor(spec_of(tmp_path)).compare(videos, lambda _: made)
    for n in range(2):
        psnr = peak_signal_noise_ratio(videos[n], made[n], data_range=255)
        assert seen["psnr"][n] == pytest.approx(psnr, rel=1e-5)
        ssim = np.mean([
            structural_similarity(
                a, b, channel_axis=-1, data_range=255, gaussian_weights=True, sigma=1.5,
                use_sample_covariance=False, win_size=11,
            )
            for a, b in zip(videos[n], made[n], strict=True)
        ])  # fmt: skip
        assert seen["ssim"][n] == pytest.approx(ssim, abs=2e-4)


class Apart(nn.Module):
    """A stand-in for LPIPS: mean absolute difference of each pair of frames."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).abs().mean((1, 2, 3)).view(-1, 1, 1, 1)


def test_lpips_by_a_given_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "lpips.pt", Apart())
    file = DetectorFile("lpips", str(path), storage.sha256(str(path)))
    made = (VIDEOS // 2).astype(np.uint8)
    seen = FeatureExtractor(spec_of(tmp_path, lpips=file, ssim=False)).compare(
        VIDEOS, lambda _: made
    )
    apart = np.abs(VIDEOS.astype(float) - made).mean((1, 2, 3, 4)) / 127.5
    np.testing.assert_allclose(seen["lpips"], apart, rtol=1e-4)
    wrong = saved(tmp_path / "wrong.pt", Both())
    file = DetectorFile("wrong", str(wrong), storage.sha256(str(wrong)))
    with pytest.raises((UserError, RuntimeError, TypeError)):
        FeatureExtractor(spec_of(tmp_path, lpips=file, ssim=False)).compare(VIDEOS, lambda _: made)


def test_features_are_extracted_once(tmp_path: Path) -> None:
    made = []

    def make() -> dict[str, np.ndarray]:
        made.append(1)
        return {"features": np.arange(6.0).reshape(2, 3), "right": np.array([True, False])}

    first = cached(str(tmp_path), "key", make)
    assert cached(str(tmp_path), "key", make) == first
    assert len(made) == 1
    assert unpack(first)["right"].tolist() == [True, False]
    (tmp_path / "key.safetensors").write_bytes(first[:20])  # truncated
    assert cached(str(tmp_path), "key", make) == first
    cached(str(tmp_path), "other", make)
    assert len(made) == 3


def test_the_fingerprint_depends_on_every_part_of_the_spec(tmp_path: Path) -> None:
    def fingerprint(**changes: object) -> str:
        return spec_of(tmp_path, **changes).fingerprint

    other = DetectorFile("x", None, "other")
    changes: dict[str, object] = {
        "detector": other, "classifier": other, "frames": b"1", "lpips": other, "motion": False,
        "ssim": False, "thumbnails": False,
    }  # fmt: skip
    assert changes.keys() == {field.name for field in fields(FeatureSpec)}
    found = {fingerprint(**{name: value}) for name, value in changes.items()}
    assert len(found | {fingerprint(), fingerprint(frames=b"2")}) == len(changes) + 2
    assert fingerprint() == fingerprint()
    moved = DetectorFile("other name", "elsewhere", spec_of(tmp_path).detector.sha256)  # type: ignore
    assert fingerprint(detector=moved) == fingerprint()


def test_views_keep_their_values(tmp_path: Path) -> None:
    planes_NCHW = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    pixels_NHWC = planes_NCHW.transpose(0, 2, 3, 1)
    found = unpack(cached(str(tmp_path), "key", lambda: {"shown": pixels_NHWC}))
    np.testing.assert_array_equal(found["shown"], pixels_NHWC)
