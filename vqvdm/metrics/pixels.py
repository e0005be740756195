"""Pixel errors between two videos: PSNR and SSIM, for judging reconstructions.

Both are differentiable, run on the tensors' device without synchronising, and compute in float32
or float64 even under autocast.

Shapes: B videos, C channels, T frames, H height, W width; h, w valid positions of the window.
"""

import math

import torch
from torch import Tensor

from vqvdm.errors import UserError

WINDOW = 11  # pixels, odd
SIGMA = 1.5  # pixels
K1, K2 = 0.01, 0.03


def psnr(a_BCTHW: Tensor, b_BCTHW: Tensor, data_range: float = 2.0) -> Tensor:
    """Peak signal-to-noise ratio in decibels, (B,): 10·log₁₀(data_range² / mean squared error).

    Takes floating-point videos (B, C, T, H, W) of one shape, by default in [-1, 1];
    `data_range` is the width of that interval. The mean is over a whole video, not a mean of
    per-frame ratios. Identical videos give inf, by definition; leave them out of averages.
    NaN pixels give NaN.
    Raises UserError for unequal or empty shapes, integer pixels or a data_range not above 0.
    """
    a_BCTHW, b_BCTHW = _as_floats(a_BCTHW, b_BCTHW, data_range)
    error_B = (a_BCTHW - b_BCTHW).square().mean(dim=(1, 2, 3, 4))
    return 10 * torch.log10(data_range**2 / error_B)


def ssim(
    a_BCTHW: Tensor, b_BCTHW: Tensor, data_range: float = 2.0, darkest: float | None = None
) -> Tensor:
    """Structural similarity, (B,), in [-1, 1]; 1 for identical videos.

    Takes floating-point videos (B, C, T, H, W) of one shape, by default in [-1, 1];
    `data_range` is the width of that interval and `darkest` its start, by default
    -data_range / 2: luminance is measured from there, so that [-1, 1] and [0, 255] give the
    same. Each frame and channel is compared under an 11x11 Gaussian window of sigma 1.5 pixels
    wherever it lies wholly inside the frame, and the map is averaged over channels, positions
    and frames. NaN pixels give NaN.
    Raises UserError for unequal or empty shapes, frames smaller than the window, integer
    pixels or a data_range not above 0.
    Source: Wang et al., "Image Quality Assessment: From Error Visibility to Structural
    Similarity" (2004), eq. 13 to 17.
    """
    a_BCTHW, b_BCTHW = _as_floats(a_BCTHW, b_BCTHW, data_range)
    height, width = a_BCTHW.shape[-2:]
    if min(height, width) < WINDOW:
        raise UserError(
            f"SSIM needs frames of at least {WINDOW}x{WINDOW} pixels, not {height}x{width}"
        )
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    start = -data_range / 2 if darkest is None else darkest
    a_BCTHW, b_BCTHW = a_BCTHW - start, b_BCTHW - start
    # every map below is (B, C, T, h, w)
    mean_a, mean_b = _blur(a_BCTHW), _blur(b_BCTHW)
    variance_a = _blur(a_BCTHW.square()) - mean_a.square()
    variance_b = _blur(b_BCTHW.square()) - mean_b.square()
    covariance = _blur(a_BCTHW * b_BCTHW) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return (luminance * structure).mean(dim=(1, 2, 3, 4))


def _blur(x_BCTHW: Tensor) -> Tensor:
    """Local Gaussian mean (B, C, T, h, w), valid positions only.

    Sums of shifted views instead of a convolution: autocast and TF32 leave those exact.
    """
    weights = [math.exp(-0.5 * ((i - WINDOW // 2) / SIGMA) ** 2) for i in range(WINDOW)]
    for dim in (-2, -1):
        length = x_BCTHW.shape[dim] - WINDOW + 1
        blurred = torch.zeros_like(x_BCTHW.narrow(dim, 0, length))
        for i, weight in enumerate(weights):
            blurred = blurred + x_BCTHW.narrow(dim, i, length) * (weight / sum(weights))
        x_BCTHW = blurred
    return x_BCTHW


def _as_floats(a_BCTHW: Tensor, b_BCTHW: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    """Both videos in float32, or float64 if either is; UserError if they do not compare."""
    if a_BCTHW.shape != b_BCTHW.shape or a_BCTHW.ndim != 5 or a_BCTHW.numel() == 0:
        raise UserError(
            "videos must be two non-empty tensors of one shape (B, C, T, H, W), "
            f"not {tuple(a_BCTHW.shape)} and {tuple(b_BCTHW.shape)}"
        )
    if not (a_BCTHW.is_floating_point() and b_BCTHW.is_floating_point()):
        raise UserError(
            f"videos must be floating point, not {a_BCTHW.dtype} and {b_BCTHW.dtype}; "
            "map uint8 to [-1, 1] with x / 127.5 - 1"
        )
    if not 0 < data_range < math.inf:
        raise UserError(
            f"data_range must be positive and finite, not {data_range}; use 2 for [-1, 1]"
        )
    dtype = torch.promote_types(torch.promote_types(a_BCTHW.dtype, b_BCTHW.dtype), torch.float32)
    return a_BCTHW.to(dtype), b_BCTHW.to(dtype)
