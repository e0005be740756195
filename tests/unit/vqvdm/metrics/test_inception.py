"""The inception score at its limits, against scipy's divergence, and its refusals."""

# mypy: disable-error-code="import-untyped"
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import entropy

from vqvdm.errors import UserError
from vqvdm.metrics import inception_score

Array = NDArray[np.float64]


def test_undecided_classifier_scores_one() -> None:
    assert inception_score(np.full((12, 5), 0.2)) == pytest.approx((1.0, 0.0))


def test_one_class_only_scores_one() -> None:
    assert inception_score(np.eye(5)[np.zeros(9, dtype=int)]) == pytest.approx((1.0, 0.0))


@pytest.mark.parametrize("classes", [2, 101])
def test_sure_and_balanced_scores_the_number_of_classes(classes: int) -> None:
    assert inception_score(np.tile(np.eye(classes), (3, 1))) == pytest.approx((classes, 0.0))


def test_sure_but_unbalanced_scores_the_perplexity_of_the_classes() -> None:
    rows = np.eye(2)[[0, 0, 0, 1]]
    assert inception_score(rows)[0] == pytest.approx(np.exp(entropy([0.75, 0.25])))


@pytest.mark.parametrize("splits", [1, 3, 4])
def test_agrees_with_scipy_divergence(splits: int) -> None:
    rows_NC = np.random.default_rng(0).dirichlet(np.full(7, 0.3), size=22)
    scores = [
        np.exp(np.mean([entropy(row_C, part_NC.mean(axis=0)) for row_C in part_NC]))
        for part_NC in np.array_split(rows_NC, splits)
    ]
    assert inception_score(rows_NC, splits) == pytest.approx((np.mean(scores), np.std(scores)))


def test_splits_are_consecutive_and_deviation_divides_by_their_number() -> None:
    rows_NC = np.concatenate([np.full((8, 4), 0.25), np.tile(np.eye(4), (2, 1))])
    assert inception_score(rows_NC, splits=2) == pytest.approx((2.5, 1.5))


def test_as_many_splits_as_videos() -> None:
    assert inception_score(np.eye(6), splits=6) == pytest.approx((1.0, 0.0))


def test_rows_a_rounding_off_one_stay_within_the_limits() -> None:
    assert inception_score(np.eye(5) * 1.0005) == pytest.approx((5.0, 0.0), rel=1e-12)


def test_softmaxed_tensors_equal_arrays() -> None:
    logits_NC = 4 * torch.randn(50, 101, generator=torch.Generator().manual_seed(0))
    rows_NC = logits_NC.softmax(dim=1)
    score = inception_score(rows_NC)
    assert score == inception_score(rows_NC.numpy())
    assert 1 < score[0] < 101
    exact = inception_score(logits_NC.double().softmax(dim=1))
    assert score == pytest.approx(exact, rel=1e-6)


GOOD = np.eye(3)


@pytest.mark.parametrize(
    ("rows", "splits", "message"),
    [
        (2 * GOOD, 1, "do not sum to 1 in 3 of 3 rows"),
        (GOOD * [1, 1, 0.99], 1, "do not sum to 1 in 1 of 3 rows"),
        (np.array([[1.5, -0.5]]), 1, "must not be negative"),
        (GOOD * [1, 1, np.nan], 1, "probabilities hold NaN or infinity in 3 of 3 rows"),
        (GOOD[0], 1, "probabilities must be a real-valued matrix"),
        (GOOD, 0, "splits must be from 1 to the number of videos, 3, not 0"),
        (GOOD, 4, "splits must be from 1 to the number of videos, 3, not 4"),
        (GOOD[:0], 1, "splits must be from 1 to the number of videos, 0, not 1"),
    ],
)
def test_refusals_in_one_line(rows: Array, splits: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        inception_score(rows, splits)
    assert "\n" not in str(caught.value)
