"""The kernel distance against scikit-learn's kernel and hand-made sums."""

# mypy: disable-error-code="import-untyped"
import tracemalloc

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics.pairwise import polynomial_kernel

from vqvdm.errors import UserError
from vqvdm.metrics import kernel, kernel_distance

Array = NDArray[np.float64]


def explicit(real_ND: Array, fake_MD: Array) -> float:
    """The unbiased estimate with whole kernel matrices."""
    settings = {"degree": 3, "gamma": 1 / real_ND.shape[1], "coef0": 1}
    real_NN = polynomial_kernel(real_ND, **settings)
    fake_MM = polynomial_kernel(fake_MD, **settings)
    cross_NM = polynomial_kernel(real_ND, fake_MD, **settings)
    off_real_NN, off_fake_MM = (~np.eye(len(k), dtype=bool) for k in (real_NN, fake_MM))
    within = real_NN[off_real_NN].mean() + fake_MM[off_fake_MM].mean()
    return float(within - 2 * cross_NM.mean())


@pytest.fixture
def sets() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(41, 10)), 1.5 * rng.normal(size=(30, 10)) + 0.2


@pytest.mark.parametrize("tile", [1, 7, 10, 30, 1024])
def test_agrees_with_scikit_learn(
    sets: tuple[Array, Array], tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "TILE", tile)
    assert kernel_distance(*sets) == pytest.approx(explicit(*sets), rel=1e-10)


def test_degenerate_sets_by_hand() -> None:
    zeros, ones = np.zeros((2, 3)), np.ones((4, 3))
    # k(0, 0) = 1, k(1, 1) = (3/3 + 1)³ = 8, k(0, 1) = 1
    assert kernel_distance(zeros, ones) == pytest.approx(1 + 8 - 2)


def test_order_is_indifferent(sets: tuple[Array, Array]) -> None:
    real_ND, fake_MD = sets
    assert kernel_distance(fake_MD, real_ND) == pytest.approx(kernel_distance(real_ND, fake_MD))


def test_no_bias_between_equal_distributions() -> None:
    rng = np.random.default_rng(1)
    draws = [kernel_distance(*rng.normal(size=(2, 12, 4))) for _ in range(400)]
    assert min(draws) < 0  # a biased estimate never is
    standard_error = np.std(draws) / np.sqrt(len(draws))
    assert abs(np.mean(draws)) < 3 * standard_error


def test_tensors_equal_arrays(sets: tuple[Array, Array]) -> None:
    real, fake = (torch.from_numpy(x).half() for x in sets)
    expected = explicit(real.double().numpy(), fake.double().numpy())
    assert kernel_distance(real, fake.float().numpy()) == pytest.approx(expected, rel=1e-10)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "TILE", 100)
    real_ND = np.random.default_rng(2).normal(size=(1500, 4))
    tracemalloc.start()
    try:
        kernel_distance(real_ND, real_ND)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2e6  # a whole kernel matrix would take 18 MB


GOOD = np.arange(6.0).reshape(3, 2)


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (GOOD[:1], GOOD, "at least 2 samples a side, not 1 real and 3 fake"),
        (GOOD, GOOD[:0], "at least 2 samples a side, not 3 real and 0 fake"),
        (GOOD, np.ones((3, 5)), "features of 2 and 5 dimensions"),
        (GOOD / np.array([1, np.nan]), GOOD, "real features hold NaN or infinity"),
        (GOOD, GOOD[0], "fake features must be a real-valued matrix"),
    ],
)
def test_refusals_in_one_line(real: Array, fake: Array, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        kernel_distance(real, fake)
    assert "\n" not in str(caught.value)
