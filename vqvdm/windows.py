"""Videos longer than those a model was trained on: windows of that length that overlap by half.

Each window goes on from the latents of the last half of the one before. Where two windows overlap,
their frames are blended: both decode the same latents there, with other neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vqvdm.errors import UserError

Name = TypeVar("Name")


def overlap_of(latents: int) -> int:
    """Latent frames that a window of so many shares with the one before."""
    return latents // 2


def count_windows(frames: int, latents: int, group: int) -> int:
    """Windows of a video of so many frames, where a window has so many latent frames, and each
    stands for a group of frames; `UserError` for a length that no windows have."""
    window, step = latents * group, (latents - overlap_of(latents)) * group
    more, rest = divmod(frames - window, step)
    if latents < 2 and frames != window:
        raise UserError(f"frames is {frames}: this model makes {window}, and no longer videos")
    if more >= 0 and not rest:
        return 1 + more
    near = window + max(0, more) * step
    raise UserError(
        f"frames is {frames}: this model makes {window}, and goes on by {step} at a time; "
        f"give {near} or {near + step}, for example"
    )


def spread(names: Sequence[Name], windows: int) -> list[Name]:
    """A name for each window, in order and as evenly as can be; `UserError` for more names than
    windows."""
    if not 1 <= len(names) <= windows:
        raise UserError(
            f"classes in turn: {len(names)}, windows of the video: {windows}; "
            "give at least one class and at most one for each window, or more frames"
        )
    return [names[place * len(names) // windows] for place in range(windows)]


def joined(
    before_NTHWC: NDArray[np.uint8], after_NTHWC: NDArray[np.uint8], overlap: int
) -> NDArray[np.uint8]:
    """Videos and the windows that follow, whose first `overlap` frames are the last of the former:
    the weight passes evenly from one to the other."""
    weight_T111 = (np.arange(1, overlap + 1, dtype=np.float32) / (overlap + 1))[:, None, None, None]
    end, begin = before_NTHWC[:, -overlap:], after_NTHWC[:, :overlap]
    blended = (1 - weight_T111) * end + weight_T111 * begin
    between = np.rint(blended).astype(np.uint8)
    return np.concatenate([before_NTHWC[:, :-overlap], between, after_NTHWC[:, overlap:]], axis=1)
