"""Measures of quality: distances between feature sets, class scores and pixel errors.

>>> from vqvdm.metrics import frechet_distance, kernel_distance, inception_score
"""

from vqvdm.metrics.frechet import frechet_distance
from vqvdm.metrics.inception import inception_score
from vqvdm.metrics.kernel import kernel_distance
from vqvdm.metrics.pixels import psnr, ssim

__all__ = ["frechet_distance", "inception_score", "kernel_distance", "psnr", "ssim"]
