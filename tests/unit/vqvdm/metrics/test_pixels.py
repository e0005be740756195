"""PSNR and SSIM against their formulae written as loops."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from vqvdm.errors import UserError
from vqvdm.metrics import psnr, ssim

Metric = Callable[..., Tensor]


def pair(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two correlated videos in [-1, 1], (B, C, T, H, W), float32."""
    generator = torch.Generator().manual_seed(seed)
    a_BCTHW = torch.rand(shape, generator=generator) * 2 - 1
    noise_BCTHW = 0.4 * torch.randn(shape, generator=generator)
    return a_BCTHW, (a_BCTHW + noise_BCTHW).clamp(-1, 1)


def looped_ssim(a_BCTHW: Tensor, b_BCTHW: Tensor, data_range: float) -> list[float]:
    """SSIM a window at a time, in float64, with weighted central moments."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    a_all, b_all = a_BCTHW.double().numpy(), b_BCTHW.double().numpy()
    batch, channels, frames, height, width = a_all.shape
    scores = []
    for n in range(batch):
        values = []
        for c, t, i, j in np.ndindex(channels, frames, height - 10, width - 10):
            a = a_all[n, c, t, i : i + 11, j : j + 11]
            b = b_all[n, c, t, i : i + 11, j : j + 11]
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            variance_a = (weights * (a - mean_a) ** 2).sum()
            variance_b = (weights * (b - mean_b) ** 2).sum()
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
            top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
            bottom = (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
            values.append(top / bottom)
        scores.append(float(np.mean(values)))
    return scores


def test_psnr_of_a_constant_error() -> None:
    black_BCTHW = torch.full((3, 3, 2, 4, 4), -1.0)
    error_B = torch.tensor([2.0, 0.2, 0.02])
    decibels_B = psnr(black_BCTHW, black_BCTHW + error_B.view(3, 1, 1, 1, 1))
    torch.testing.assert_close(decibels_B, torch.tensor([0.0, 20.0, 40.0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("data_range", [1.0, 2.0])
def test_psnr_agrees_with_formula(data_range: float) -> None:
    a_BCTHW, b_BCTHW = pair(4, 3, 2, 5, 6)
    squares = ((a - b).double().square().mean() for a, b in zip(a_BCTHW, b_BCTHW, strict=True))
    expected = [10 * math.log10(data_range**2 / mse) for mse in squares]
    assert psnr(a_BCTHW, b_BCTHW, data_range).tolist() == pytest.approx(expected, rel=1e-5)


def test_psnr_of_identical_videos_is_infinite_for_them_alone() -> None:
    a_BCTHW, b_BCTHW = pair(2, 3, 2, 4, 4)
    b_BCTHW[0] = a_BCTHW[0]
    decibels_B = psnr(a_BCTHW, b_BCTHW)
    assert decibels_B[0] == math.inf
    assert decibels_B[1].isfinite()


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_interval_and_data_range_go_together(metric: Metric) -> None:
    a_BCTHW, b_BCTHW = (x.double() for x in pair(2, 1, 2, 12, 12))
    same = metric(a_BCTHW * 127.5, b_BCTHW * 127.5, data_range=255.0)
    torch.testing.assert_close(same, metric(a_BCTHW, b_BCTHW))


@pytest.mark.parametrize("data_range", [1.0, 2.0])
@pytest.mark.parametrize("size", [(11, 11), (13, 16)])
def test_ssim_agrees_with_loops(data_range: float, size: tuple[int, int]) -> None:
    a_BCTHW, b_BCTHW = pair(2, 2, 3, *size)
    expected = looped_ssim(a_BCTHW + data_range / 2, b_BCTHW + data_range / 2, data_range)
    assert 0.1 < min(expected) < 0.99
    scores_B = ssim(a_BCTHW, b_BCTHW, data_range)
    assert scores_B.shape == (2,)
    assert scores_B.tolist() == pytest.approx(expected, abs=1e-5)


def test_ssim_of_identical_videos_is_one() -> None:
    a_BCTHW, _ = pair(2, 3, 2, 16, 16)
    assert ssim(a_BCTHW, a_BCTHW).tolist() == [1.0, 1.0]


def test_ssim_of_flat_frames_compares_luminance_alone() -> None:
    dark, light = torch.full((1, 3, 2, 12, 12), -0.5), torch.full((1, 3, 2, 12, 12), -0.25)
    c1 = 0.02**2
    expected = (2 * 0.5 * 0.75 + c1) / (0.5**2 + 0.75**2 + c1)
    assert ssim(dark, light).item() == pytest.approx(expected, abs=1e-4)


def test_ssim_of_a_negative_is_negative() -> None:
    a_BCTHW = 0.5 + 0.4 * pair(1, 1, 1, 24, 24)[0]
    assert -1 <= ssim(a_BCTHW, 1 - a_BCTHW, darkest=0.0).item() < -0.5


def test_ssim_and_psnr_agree_with_scikit_image_whatever_the_range() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (3, 24, 20, 3)).astype(np.uint8)
    b = (a * 0.7 + rng.integers(0, 70, a.shape)).astype(np.uint8)
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    frames = [
        structural_similarity(x, y, channel_axis=-1, data_range=255, win_size=11, **window)
        for x, y in zip(a, b, strict=True)
    ]
    bytes_BCTHW = [torch.from_numpy(v).permute(3, 0, 1, 2)[None].double() for v in (a, b)]
    pixels_BCTHW = [x / 127.5 - 1 for x in bytes_BCTHW]
    whole = ssim(*pixels_BCTHW).item()
    assert whole == pytest.approx(ssim(*bytes_BCTHW, 255.0, 0.0).item(), abs=1e-9)
    assert whole == pytest.approx(np.mean(frames), abs=1e-6)
    decibels = peak_signal_noise_ratio(a, b, data_range=255)
    assert psnr(*pixels_BCTHW).item() == pytest.approx(decibels, rel=1e-9)


def test_ssim_averages_frames() -> None:
    a_BCTHW, b_BCTHW = pair(1, 3, 4, 14, 14)
    frames = [ssim(a_BCTHW[:, :, t, None], b_BCTHW[:, :, t, None]).item() for t in range(4)]
    assert ssim(a_BCTHW, b_BCTHW).item() == pytest.approx(np.mean(frames), abs=1e-6)


def test_ssim_is_symmetric_in_height_and_width() -> None:
    a_BCTHW, b_BCTHW = pair(1, 1, 1, 13, 19)
    turned_B = ssim(a_BCTHW.mT, b_BCTHW.mT)
    torch.testing.assert_close(turned_B, ssim(a_BCTHW, b_BCTHW), atol=1e-6, rtol=0)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_autocast_and_half_precision_do_not_blunt_the_score(metric: Metric) -> None:
    a_BCTHW, b_BCTHW = (x.bfloat16() for x in pair(2, 3, 2, 12, 12))
    expected_B = metric(a_BCTHW.float(), b_BCTHW.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(metric(a_BCTHW, b_BCTHW), expected_B, atol=0, rtol=0)
    assert expected_B.dtype == torch.float32


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_gradients_reach_the_pixels(metric: Metric) -> None:
    a_BCTHW, b_BCTHW = pair(1, 1, 1, 12, 12)
    (gradient,) = torch.autograd.grad(metric(a_BCTHW, b_BCTHW.requires_grad_()).sum(), b_BCTHW)
    assert gradient.isfinite().all()
    assert (gradient != 0).any()


GOOD = torch.zeros(1, 3, 2, 11, 11)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    ("a", "b", "data_range", "message"),
    [
        (GOOD, GOOD[:, :, :1], 2.0, "two non-empty tensors of one shape"),
        (GOOD[0], GOOD[0], 2.0, "two non-empty tensors of one shape"),
        (GOOD[:0], GOOD[:0], 2.0, "two non-empty tensors of one shape"),
        (GOOD.byte(), GOOD.byte(), 2.0, "floating point, not torch.uint8"),
        (GOOD, GOOD.byte(), 2.0, "floating point, not torch.float32 and torch.uint8"),
        (GOOD, GOOD, 0.0, "data_range must be positive"),
        (GOOD, GOOD, math.nan, "data_range must be positive"),
    ],
)
def test_refusals_in_one_line(
    metric: Metric, a: Tensor, b: Tensor, data_range: float, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        metric(a, b, data_range)
    assert "\n" not in str(caught.value)


def test_ssim_refuses_frames_smaller_than_its_window() -> None:
    with pytest.raises(UserError, match="at least 11x11 pixels, not 11x10"):
        ssim(GOOD[..., :10], GOOD[..., :10])
