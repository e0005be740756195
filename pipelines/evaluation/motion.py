"""Motion between two frames.

Shapes: N videos, T frames, H height, W width, C colours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def displacement(videos_NTHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Median distance in pixels that the centre of brightness moves a frame; (N,).

    Meant for one bright object on a dark background. The median ignores the few frames in
    which it changes direction.
    """
    light = videos_NTHWC.astype(np.float64).mean(axis=-1)
    light = light - np.median(light, axis=(2, 3), keepdims=True)
    light = np.where(light > 32, light, 0.0)
    mass = light.sum(axis=(2, 3)).clip(1e-9)
    y = (light * np.arange(light.shape[2])[:, None]).sum(axis=(2, 3)) / mass
    x = (light * np.arange(light.shape[3])).sum(axis=(2, 3)) / mass
    return np.median(np.hypot(np.diff(y), np.diff(x)), axis=1)
