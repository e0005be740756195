"""Frames that are given to a generator, which makes the others.

Shapes: N videos, K known frames, T frames, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqvdm.errors import UserError

Videos = NDArray[np.uint8]


@dataclass(frozen=True)
class KnownFrames:
    """Videos as long as those that are made at once, by default those of the training, and which
    of their frames are known.

    Known frames come in whole groups: those that one latent frame stands for, of which the first
    begins at frame 0. See `VideoGenerator.group`.
    """

    videos_NTHWC: Videos
    """uint8 (N, T, H, W, 3); what it holds where frames are unknown does not matter."""
    is_known_NT: NDArray[np.bool_]
    """(N, T), or (T,) for all videos alike."""

    @classmethod
    def first(cls, frames_NKHWC: Videos, total: int) -> KnownFrames:
        """Videos of `total` frames that begin with these."""
        count = frames_NKHWC.shape[1]
        missing = max(0, total - count)
        videos = np.pad(frames_NKHWC, ((0, 0), (0, missing), (0, 0), (0, 0), (0, 0)))
        return cls(videos, np.arange(count + missing) < count)

    @classmethod
    def ends(cls, videos_NTHWC: Videos, count: int) -> KnownFrames:
        """Videos of which as many frames at either end are known."""
        place = np.arange(videos_NTHWC.shape[1])
        return cls(videos_NTHWC, (place < count) | (place >= len(place) - count))

    @property
    def mask_NT(self) -> NDArray[np.bool_]:
        """Which frames are known, for each video."""
        return np.broadcast_to(self.is_known_NT, self.videos_NTHWC.shape[:2])

    def check(self, count: int, shape: tuple[int, int, int], group: int) -> None:
        """`UserError` unless these are `count` videos (T, H, W) with groups of known frames."""
        if self.videos_NTHWC.shape != (count, *shape, 3) or self.videos_NTHWC.dtype != np.uint8:
            raise UserError(
                f"known videos are {self.videos_NTHWC.dtype} {self.videos_NTHWC.shape}: this model "
                f"takes uint8 {(count, *shape, 3)}, a video for each class"
            )
        known = self.is_known_NT
        if known.dtype != np.bool_ or known.shape not in ((shape[0],), (count, shape[0])):
            raise UserError(
                f"the mask of known frames is {known.dtype} {known.shape}: give booleans "
                f"{(shape[0],)} or {(count, shape[0])}"
            )
        groups_NGP = self.mask_NT.reshape(count, -1, group)
        if (groups_NGP.any(-1) != groups_NGP.all(-1)).any():
            raise UserError(
                f"known frames must fill whole groups of {group}, as this model's latent frames "
                f"stand for {group} frames each: 0 to {group - 1}, {group} to {2 * group - 1}, …"
            )
        if self.mask_NT.all(1).any():
            raise UserError("all frames of a video are known: leave some to be made")

    def groups(self, group: int) -> NDArray[np.bool_]:
        """Which groups of frames are known, (N, T / group)."""
        return np.all(self.mask_NT.reshape(len(self.videos_NTHWC), -1, group), axis=-1)

    def filled(self) -> Videos:
        """The videos with each unknown frame as the known one nearest in time, the earlier of two.

        Encoders see some frames beyond a group: a picture that stands still tells them less that
        is wrong than black does.
        """
        place = np.arange(self.videos_NTHWC.shape[1])
        distance_TT = np.abs(place[:, None] - place)
        far = len(place)
        nearest_NT = np.where(self.mask_NT[:, None], distance_TT, far).argmin(-1)
        return np.take_along_axis(self.videos_NTHWC, nearest_NT[..., None, None, None], axis=1)
