"""Thumbnails: what clips are compared by when copies are searched for.

Shapes: N videos, T frames, H height, W width, C colours, D numbers of a thumbnail.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool3d

from pipelines.video import Frames

TIMES, REGIONS = 4, 4
"""A thumbnail has so many times, and so many regions a side. Of 4, 8 and 16 regions, 4 tell
copies best that lost detail (docs/LOG.md)."""


def thumbnails(videos_NTHWC: Frames) -> NDArray[np.uint8]:
    """Mean colours of regions over stretches of time, (N, D), in 0 to 255."""
    x_NCTHW = torch.from_numpy(videos_NTHWC).permute(0, 4, 1, 2, 3).float()
    means = adaptive_avg_pool3d(x_NCTHW, (TIMES, REGIONS, REGIONS))
    return means.round().to(torch.uint8).flatten(1).numpy()


def mirrored(thumbnails_ND: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The thumbnails of the mirror images of clips, left and right exchanged."""
    return thumbnails_ND.reshape(len(thumbnails_ND), -1, REGIONS)[:, :, ::-1].reshape(
        thumbnails_ND.shape
    )
