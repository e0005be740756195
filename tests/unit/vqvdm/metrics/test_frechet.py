"""The Fréchet distance against scipy, closed forms and itself in pieces."""

# mypy: disable-error-code="import-untyped"
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from vqvdm.errors import UserError
from vqvdm.metrics import frechet_distance
from vqvdm.metrics.frechet import (
    GaussianStatistics,
    frechet_distance_at_infinity,
    frechet_distance_from_statistics,
)

Array = NDArray[np.float64]


def exact_sample(count: int, mean_D: Array, covariance_DD: Array, seed: int) -> Array:
    """Features (count, D) whose sample mean and covariance (N-1) are exactly as given."""
    noise_ND = np.random.default_rng(seed).normal(size=(count, len(mean_D)))
    noise_ND -= noise_ND.mean(axis=0)
    whitener_DD = np.linalg.inv(np.linalg.cholesky(np.cov(noise_ND, rowvar=False)))
    eigenvalues_D, vectors_DD = np.linalg.eigh(covariance_DD)
    colour_DD = vectors_DD * np.sqrt(np.clip(eigenvalues_D, 0, None))
    features_ND: Array = mean_D + noise_ND @ whitener_DD.T @ colour_DD.T
    return features_ND


def textbook(real_ND: Array, fake_MD: Array, ddof: int) -> float:
    """The formula as printed, with scipy's general matrix square root."""
    sigma_a = np.cov(real_ND, rowvar=False, ddof=ddof)
    sigma_b = np.cov(fake_MD, rowvar=False, ddof=ddof)
    shift_D = real_ND.mean(axis=0) - fake_MD.mean(axis=0)
    root_DD = sqrtm(sigma_a @ sigma_b).real
    return float(shift_D @ shift_D + np.trace(sigma_a + sigma_b - 2 * root_DD))


@pytest.fixture
def correlated() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    real_ND = rng.normal(size=(90, 12)) @ rng.normal(size=(12, 12))
    fake_MD = rng.normal(size=(70, 12)) @ rng.normal(size=(12, 12)) + 0.5
    return real_ND, fake_MD


@pytest.mark.parametrize("ddof", [0, 1])
def test_agrees_with_scipy_square_root(correlated: tuple[Array, Array], ddof: int) -> None:
    expected = textbook(*correlated, ddof)
    assert frechet_distance(*correlated, ddof=ddof) == pytest.approx(expected, rel=1e-10)


def test_divides_by_n_minus_one_by_default(correlated: tuple[Array, Array]) -> None:
    default = frechet_distance(*correlated)
    assert default == frechet_distance(*correlated, ddof=1)
    assert abs(default - frechet_distance(*correlated, ddof=0)) > 1e-3 * default


def test_isotropic_gaussians() -> None:
    mean_D, eye_DD = np.zeros(6), np.eye(6)
    real_ND = exact_sample(50, mean_D, 4.0 * eye_DD, seed=1)
    fake_MD = exact_sample(50, mean_D + 3.0, 0.25 * eye_DD, seed=2)
    spread = 6 * (2.0 - 0.5) ** 2
    assert frechet_distance(real_ND, fake_MD) == pytest.approx(6 * 9 + spread, rel=1e-12)
    assert frechet_distance(real_ND, fake_MD, ddof=0) == pytest.approx(
        6 * 9 + spread * 49 / 50, rel=1e-12
    )


def test_shifted_mean_is_squared_length_of_shift(correlated: tuple[Array, Array]) -> None:
    real_ND, _ = correlated
    shift_D = np.linspace(-1, 1, 12)
    assert frechet_distance(real_ND, real_ND + shift_D) == pytest.approx(shift_D @ shift_D)


def test_one_dimension() -> None:
    real_N1, fake_M1 = np.array([[0.0], [2.0]]), np.array([[0.0], [1.0], [5.0]])
    expected = (1 - 2) ** 2 + (np.sqrt(2) - np.sqrt(7)) ** 2
    assert frechet_distance(real_N1, fake_M1) == pytest.approx(expected, rel=1e-12)


def test_same_set_is_zero_and_order_is_indifferent(correlated: tuple[Array, Array]) -> None:
    real_ND, fake_MD = correlated
    assert 0 <= frechet_distance(real_ND, real_ND) < 1e-11
    forth, back = frechet_distance(real_ND, fake_MD), frechet_distance(fake_MD, real_ND)
    assert forth == pytest.approx(back, rel=1e-13)


def test_singular_covariances_that_share_axes() -> None:
    real_ND = exact_sample(40, np.zeros(5), np.diag([9.0, 4.0, 0.0, 0.0, 1.0]), seed=3)
    fake_MD = exact_sample(40, np.zeros(5), np.diag([1.0, 0.0, 0.0, 4.0, 1.0]), seed=4)
    expected = (3 - 1) ** 2 + 2**2 + 0 + 2**2 + 0
    assert frechet_distance(real_ND, fake_MD) == pytest.approx(expected, rel=1e-10)


def test_fewer_samples_than_dimensions() -> None:
    rng = np.random.default_rng(5)
    real_ND, fake_MD = rng.normal(size=(9, 64)), 2 * rng.normal(size=(7, 64))
    a_ND, b_MD = real_ND - real_ND.mean(axis=0), fake_MD - fake_MD.mean(axis=0)
    cross = np.linalg.norm(a_ND @ b_MD.T, ord="nuc") / np.sqrt(8 * 6)  # from the samples directly
    shift = np.square(real_ND.mean(axis=0) - fake_MD.mean(axis=0)).sum()
    expected = shift + (a_ND**2).sum() / 8 + (b_MD**2).sum() / 6 - 2 * cross
    assert frechet_distance(real_ND, fake_MD) == pytest.approx(expected, rel=1e-10)


def test_constant_features_leave_only_the_shift() -> None:
    assert frechet_distance(np.ones((3, 4)), np.full((5, 4), 3.0)) == pytest.approx(16.0)


def test_large_offset_costs_no_accuracy(correlated: tuple[Array, Array]) -> None:
    real_ND, fake_MD = correlated
    far = frechet_distance(real_ND + 1e6, fake_MD + 1e6)
    assert far == pytest.approx(frechet_distance(real_ND, fake_MD), rel=1e-8)


def test_tensors_of_any_dtype_equal_arrays(correlated: tuple[Array, Array]) -> None:
    real, fake = (torch.from_numpy(x).bfloat16() for x in correlated)
    expected = frechet_distance(real.double().numpy(), fake.double().numpy())
    assert frechet_distance(real.requires_grad_(), fake) == expected
    assert frechet_distance(real.detach().float().numpy(), fake) == expected
    assert isinstance(expected, float)


def test_merged_chunks_equal_the_whole(correlated: tuple[Array, Array]) -> None:
    real_ND, fake_MD = correlated[0] + 1e3, correlated[1]
    whole = GaussianStatistics.from_features(real_ND)
    merged = GaussianStatistics.from_features(real_ND[:0])
    for chunk_ND in np.split(real_ND, [1, 1, 30, 33, 88]):
        merged = merged.merge(GaussianStatistics.from_features(chunk_ND))
    assert merged.count == whole.count == 90
    np.testing.assert_allclose(merged.mean_D, whole.mean_D, rtol=1e-14)
    np.testing.assert_allclose(merged.scatter_DD, whole.scatter_DD, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(whole.covariance(), np.cov(real_ND, rowvar=False), rtol=1e-10)
    fake = GaussianStatistics.from_features(fake_MD)
    assert frechet_distance_from_statistics(merged, fake, ddof=0) == pytest.approx(
        frechet_distance(real_ND, fake_MD, ddof=0), rel=1e-12
    )


def test_merge_changes_neither_part(correlated: tuple[Array, Array]) -> None:
    a, b = (GaussianStatistics.from_features(x) for x in correlated)
    before = [x.copy() for x in (a.mean_D, a.scatter_DD, b.mean_D, b.scatter_DD)]
    a.merge(b)
    for old, new in zip(before, (a.mean_D, a.scatter_DD, b.mean_D, b.scatter_DD), strict=True):
        np.testing.assert_array_equal(old, new)


def test_inputs_are_left_alone(correlated: tuple[Array, Array]) -> None:
    before = correlated[0].copy()
    frechet_distance(*correlated)
    np.testing.assert_array_equal(correlated[0], before)


GOOD = np.arange(6.0).reshape(3, 2)


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (GOOD[:1], GOOD, "at least 2 samples, not 1"),
        (GOOD, GOOD[:0], "at least 2 samples, not 0"),
        (GOOD, np.ones((3, 5)), "features of 2 and 5 dimensions"),
        (GOOD, GOOD / np.array([1, np.nan]), "fake features hold NaN or infinity in 3 of 3"),
        (torch.tensor([[1.0, torch.inf], [0, 0]]), GOOD, "real features .* in 1 of 2 rows"),
        (GOOD[0], GOOD, "real features must be a real-valued matrix"),
        (GOOD[:, :0], GOOD, "real features must be a real-valued matrix"),
        (GOOD, GOOD.astype(str), "fake features must be a real-valued matrix"),
        (GOOD, GOOD * 1j, "fake features must be a real-valued matrix"),
    ],
)
def test_refusals_in_one_line(
    real: Array | torch.Tensor, fake: Array | torch.Tensor, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        frechet_distance(real, fake)
    assert "\n" not in str(caught.value)


def test_refuses_to_merge_other_dimensions() -> None:
    with pytest.raises(UserError, match="features of 2 and 1 dimensions"):
        GaussianStatistics.from_features(GOOD).merge(GaussianStatistics.from_features(GOOD[:, :1]))


def test_refuses_another_ddof() -> None:
    with pytest.raises(UserError, match="ddof must be 1"):
        frechet_distance(GOOD, GOOD, ddof=2)


@pytest.mark.parametrize(("count", "width"), [(130, 64), (600, 30), (400, 4)])
def test_infinitely_many_samples(count: int, width: int) -> None:
    """Against the closed form of Gaussians with commuting covariances."""
    rng, scale_D = np.random.default_rng(0), np.exp(-3 * np.arange(width) / width)
    truth = float(width * 0.1**2 + (0.04 * scale_D**2).sum())  # ‖μ-μ'‖² + Σ (σ - 0.8 σ)²
    usual, limit = [], []
    for _ in range(40):
        real = rng.standard_normal((count, width)) * scale_D
        fake = 0.8 * rng.standard_normal((count, width)) * scale_D + 0.1
        usual.append(frechet_distance(real, fake))
        parts = [
            [GaussianStatistics.from_features(part) for part in np.array_split(rows, 20)]
            for rows in (real, fake)
        ]
        limit.append(frechet_distance_at_infinity(parts[0], parts[1]))
        assert frechet_distance_at_infinity(parts[1], parts[0]) == pytest.approx(limit[-1])
    error = np.std(limit) / len(limit) ** 0.5
    assert abs(np.mean(limit) - truth) < 3 * error + 0.04 * truth
    assert np.mean(usual) - truth > 4 * abs(np.mean(limit) - truth)


def test_a_line_needs_parts() -> None:
    few = [GaussianStatistics.from_features(GOOD)] * 3
    with pytest.raises(UserError, match="sets of 3 and 4 parts: at least 4"):
        frechet_distance_at_infinity(few, [*few, few[0]])
