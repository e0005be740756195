"""Do samples copy training clips? Each is searched for among all of them.

Clips are compared by thumbnails: colours of a few regions at a few times, which survive the blur of
a tokenizer. The training clips are never all in memory.

How near a training clip is says little alone, as clips of a still scene are near each other anyway.
So the distance of the nearest is divided by that of the `NEIGHBOURS`-th nearest: a copy is far
nearer to one clip than to its neighbours. Held-out clips tell what is usual.

Shapes: N videos, M training clips, D numbers of a thumbnail, K neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.batches import ClipRef
from pipelines.evaluation.metrics import Metrics
from pipelines.evaluation.thumbnails import mirrored

NEIGHBOURS = 20
USUAL = 0.05
"""Share of held-out clips that count as unusually near."""


class Search:
    """The nearest training clips of some videos, found a part of the training clips at a time."""

    def __init__(self, thumbnails_ND: NDArray[np.uint8], mirror: bool = False) -> None:
        """With `mirror`, a clip is as near as its mirror image: for models that train on both."""
        self._mirror = mirror
        self._x_ND = thumbnails_ND.astype(np.float64)
        count = len(thumbnails_ND)
        self._squares_NK = np.full((count, NEIGHBOURS), np.inf)
        self.searched = 0
        self.nearest: list[ClipRef | None] = [None] * count
        """The nearest clip of each video."""

    def add(self, thumbnails_MD: NDArray[np.uint8], refs: Sequence[ClipRef]) -> None:
        """Search some training clips."""
        squares_NM = self._squares(thumbnails_MD)
        if self._mirror:
            squares_NM = np.minimum(squares_NM, self._squares(mirrored(thumbnails_MD)))
        first_N = squares_NM.argmin(1)
        for n in np.flatnonzero(squares_NM.min(1) < self._squares_NK[:, 0]):
            self.nearest[n] = refs[first_N[n]]
        both = np.concatenate([self._squares_NK, squares_NM], 1)
        self._squares_NK = np.sort(np.partition(both, NEIGHBOURS - 1, 1)[:, :NEIGHBOURS], 1)
        self.searched += len(refs)

    def _squares(self, thumbnails_MD: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Squared distances (N, M)."""
        x_ND, y_MD = self._x_ND, thumbnails_MD.astype(np.float64)
        return (x_ND**2).sum(1)[:, None] + (y_MD**2).sum(1) - 2 * x_ND @ y_MD.T

    @property
    def distance_N(self) -> NDArray[np.float64]:
        """Distance of the nearest: root mean square difference of thumbnails, of 255."""
        return np.sqrt(self._squares_NK[:, 0].clip(0) / self._x_ND.shape[1])

    @property
    def relative_N(self) -> NDArray[np.float64]:
        """Distance of the nearest over that of the `NEIGHBOURS`-th nearest, in [0, 1]; 1 where all
        of them are the same."""
        near_N, far_N = self._squares_NK[:, 0].clip(0), self._squares_NK[:, -1].clip(0)
        return np.sqrt(np.divide(near_N, far_N, out=np.ones_like(near_N), where=far_N > 0))


def memorisation(metrics: Metrics, samples: Search, held_out: Search | None) -> None:
    """Relative distances of samples and of held-out clips to their nearest training clips.

    A ratio far below 1 means that most samples are copies; a share of close ones far above
    `USUAL` that some are.
    """
    if samples.searched <= NEIGHBOURS:
        reason = f"only {samples.searched} training clips: more than {NEIGHBOURS} are needed"
        metrics.refuse("memorisation", reason)
        return
    metrics.one("nearest/samples", float(np.median(samples.relative_N)))
    metrics.one("nearest/searched", float(samples.searched))
    if held_out is None:
        return
    usual = float(np.median(held_out.relative_N))
    metrics.one("nearest/held_out", usual)
    if usual > 0:
        metrics.one("nearest/ratio", float(np.median(samples.relative_N)) / usual)
    close = float(np.quantile(held_out.relative_N, USUAL))
    metrics.one("nearest/close", float((samples.relative_N < close).mean()))
