"""Inception score: high if each video is clearly of one class and all classes occur.

Shapes: N videos; C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vqvdm.errors import UserError
from vqvdm.metrics.frechet import Features, FloatArray, as_matrix, require_same_width

ROW_SUM_TOLERANCE = 1e-3  # a float32 softmax is well within; logits and bfloat16 are not


@dataclass(frozen=True, eq=False)
class InceptionStatistics:
    """Sufficient statistics of one split's videos for a score, in float64; they are additive.

    count       videos seen, 0 or more
    sum_C       sum of their class probabilities
    negentropy  sum of their Σ p log p
    """

    count: int
    sum_C: FloatArray
    negentropy: float

    @classmethod
    def from_probabilities(cls, probabilities_NC: Features) -> InceptionStatistics:
        """Summarise probabilities (N, C); a worker's share may be empty (0, C).

        Raises UserError unless they are finite, not negative, and sum to 1 in every row.
        """
        return _summary(_normalised(probabilities_NC))

    def merge(self, other: InceptionStatistics) -> InceptionStatistics:
        """Statistics of both sets together; UserError if the numbers of classes differ."""
        require_same_width(len(self.sum_C), len(other.sum_C))
        return InceptionStatistics(
            self.count + other.count, self.sum_C + other.sum_C, self.negentropy + other.negentropy
        )

    def score(self) -> float:
        """exp(E KL(p(y|x) ‖ p(y))), in [1, C]; UserError where there are no videos."""
        if self.count == 0:
            raise UserError("an inception score needs at least 1 video")
        marginal_C = self.sum_C / self.count
        return float(np.exp(self.negentropy / self.count - (marginal_C * _log(marginal_C)).sum()))


def inception_score(probabilities_NC: Features, splits: int = 1) -> tuple[float, float]:
    """Mean and standard deviation over `splits` of exp(E KL(p(y|x) ‖ p(y))), each in [1, C].

    probabilities_NC (N, C) is an array or tensor of class probabilities, a softmaxed row for
    every video; higher scores are better. The N videos are cut in their order into `splits`
    parts of N/splits, give or take one: shuffle videos sorted by class. The deviation divides
    by the number of splits and is 0 for one. A split can reach C only with many videos of
    every class, so scores of different N/splits do not compare.
    Raises UserError unless probabilities are finite, not negative and sum to 1 in every row,
    and 1 ≤ splits ≤ N.
    Source: Salimans et al., "Improved Techniques for Training GANs" (2016), section 4; for
    videos Saito et al., "Temporal Generative Adversarial Nets" (2017).
    """
    probabilities_NC = _normalised(probabilities_NC)
    if not 1 <= splits <= len(probabilities_NC):
        raise UserError(
            f"splits must be from 1 to the number of videos, {len(probabilities_NC)}, not {splits}"
        )
    scores = [_summary(part_NC).score() for part_NC in np.array_split(probabilities_NC, splits)]
    return float(np.mean(scores)), float(np.std(scores))


def _normalised(probabilities_NC: Features) -> FloatArray:
    """Checked probabilities whose rows sum to exactly 1."""
    probabilities_NC = as_matrix(probabilities_NC, "probabilities")
    if (probabilities_NC < 0).any():
        raise UserError("probabilities must not be negative; apply softmax to the logits first")
    sums_N1 = probabilities_NC.sum(axis=1, keepdims=True)
    wrong = int((np.abs(sums_N1 - 1) > ROW_SUM_TOLERANCE).sum())
    if wrong:
        raise UserError(
            f"probabilities do not sum to 1 in {wrong} of {len(sums_N1)} rows; "
            "apply softmax over the classes, in float32"
        )
    return probabilities_NC / sums_N1


def _summary(probabilities_NC: FloatArray) -> InceptionStatistics:
    negentropy = float((probabilities_NC * _log(probabilities_NC)).sum())
    return InceptionStatistics(len(probabilities_NC), probabilities_NC.sum(axis=0), negentropy)


def _log(probabilities: FloatArray) -> FloatArray:
    """Natural logarithm, with 0 for a probability of 0: the terms 0·log 0 count as 0."""
    logs: FloatArray = np.log(np.where(probabilities > 0, probabilities, 1.0))
    return logs
