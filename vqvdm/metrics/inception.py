"""Inception score: are the videos each of one clear class, and all classes among them?

Shapes: N videos; C classes.
"""

import numpy as np

from vqvdm.errors import UserError
from vqvdm.metrics.frechet import Features, FloatArray, as_matrix

ROW_SUM_TOLERANCE = 1e-3  # a float32 softmax is well within; logits and bfloat16 are not


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
    if not 1 <= splits <= len(probabilities_NC):
        raise UserError(
            f"splits must be from 1 to the number of videos, {len(probabilities_NC)}, not {splits}"
        )
    parts = np.array_split(probabilities_NC / sums_N1, splits)
    scores = [_score(part_NC) for part_NC in parts]
    return float(np.mean(scores)), float(np.std(scores))


def _score(probabilities_NC: FloatArray) -> float:
    """The score of one split: the exponential of the mean divergence from the marginal."""
    marginal_C = probabilities_NC.mean(axis=0)
    log_ratio_NC = _log(probabilities_NC) - _log(marginal_C)
    return float(np.exp((probabilities_NC * log_ratio_NC).sum(axis=1).mean()))


def _log(probabilities: FloatArray) -> FloatArray:
    """Natural logarithm, with 0 for a probability of 0: the terms 0·log 0 count as 0."""
    logs: FloatArray = np.log(np.where(probabilities > 0, probabilities, 1.0))
    return logs
