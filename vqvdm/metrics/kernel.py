"""Kernel distance between two sets of features: KVD on I3D logits, KID on Inception ones.

Shapes: N, M samples; D feature dimensions; P, Q rows of one tile.
"""

from vqvdm.errors import UserError
from vqvdm.metrics.frechet import Features, FloatArray, as_matrix, require_same_width

TILE = 1024  # rows and columns of the kernel matrix held at once: 8 MiB of float64


def kernel_distance(real_ND: Features, fake_MD: Features) -> float:
    """Unbiased squared maximum mean discrepancy under k(x, y) = (x·y/D + 1)³; lower is better.

    real_ND (N, D) and fake_MD (M, D) are arrays or tensors of one detector's features, any
    real dtype. One estimate over all samples, no subsets and no factor of 1,000, as TATS and
    LVDM report KVD. Unbiased means that equal distributions give 0 on average: a single
    estimate can be negative. Memory beyond float64 copies of the inputs is a few tiles.
    Raises UserError for fewer than 2 samples on a side, unequal D, or NaN or infinity.
    Source: Gretton et al., "A Kernel Two-Sample Test" (2012), eq. 3; the kernel is that of
    Bińkowski et al., "Demystifying MMD GANs" (2018).
    """
    real_ND = as_matrix(real_ND, "real features")
    fake_MD = as_matrix(fake_MD, "fake features")
    require_same_width(real_ND.shape[1], fake_MD.shape[1])
    if min(len(real_ND), len(fake_MD)) < 2:
        raise UserError(
            "a kernel distance needs at least 2 samples a side, "
            f"not {len(real_ND)} real and {len(fake_MD)} fake; add videos"
        )
    cross = _sum_of_kernels(real_ND, fake_MD) / (len(real_ND) * len(fake_MD))
    return _mean_off_diagonal(real_ND) + _mean_off_diagonal(fake_MD) - 2 * cross


def _mean_off_diagonal(x_ND: FloatArray) -> float:
    """Mean of k(xᵢ, xⱼ) over i ≠ j. Terms with i = j would bias the estimate."""
    diagonal_N = _kernel((x_ND**2).sum(axis=1), x_ND.shape[1])
    count = len(x_ND)
    return (_sum_of_kernels(x_ND, x_ND) - float(diagonal_N.sum())) / (count * (count - 1))


def _sum_of_kernels(x_ND: FloatArray, y_MD: FloatArray) -> float:
    """Sum of k(xᵢ, yⱼ) over all pairs, a tile of the (N, M) matrix at a time."""
    total = 0.0
    for i in range(0, len(x_ND), TILE):
        for j in range(0, len(y_MD), TILE):
            dot_PQ = x_ND[i : i + TILE] @ y_MD[j : j + TILE].T
            total += float(_kernel(dot_PQ, x_ND.shape[1]).sum())
    return total


def _kernel(dot: FloatArray, width: int) -> FloatArray:
    """The polynomial kernel of degree 3, gamma = 1/D, coef0 = 1, from dot products of any shape."""
    base = dot / width + 1
    return base * base * base  # numpy's ** 3 is many times slower
