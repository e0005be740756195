"""Conditioning frames of a generator, which makes the other frames of a video.

Shapes: N videos, K conditioning frames, T frames, H height, W width.
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
    of their frames are conditioning frames.

    These come in whole groups: those that one latent frame stands for, of which the first begins at
    frame 0. See `VideoGenerator.group`.
    """

    videos_NTHWC: Videos
    """uint8 (N, T, H, W, 3); all frames but the conditioning frames are ignored."""
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
        """Videos with `count` conditioning frames at either end."""
        place = np.arange(videos_NTHWC.shape[1])
        return cls(videos_NTHWC, (place < count) | (place >= len(place) - count))

    @property
    def mask_NT(self) -> NDArray[np.bool_]:
        """Which frames are conditioning frames, for each video."""
        return np.broadcast_to(self.is_known_NT, self.videos_NTHWC.shape[:2])

    def check(self, count: int, shape: tuple[int, int, int], group: int) -> None:
        """`UserError` unless these are `count` videos (T, H, W) with whole groups of conditioning
        frames, and others to make."""
        if self.videos_NTHWC.shape != (count, *shape, 3) or self.videos_NTHWC.dtype != np.uint8:
            raise UserError(
                f"known videos are {self.videos_NTHWC.dtype} {self.videos_NTHWC.shape}: this model "
                f"takes uint8 {(count, *shape, 3)}, a video for each class"
            )
        known = self.is_known_NT
        if known.dtype != np.bool_ or known.shape not in ((shape[0],), (count, shape[0])):
            raise UserError(
                f"the mask of conditioning frames is {known.dtype} {known.shape}: give booleans "
                f"{(shape[0],)} or {(count, shape[0])}"
            )
        groups_NGP = self.mask_NT.reshape(count, -1, group)
        if (groups_NGP.any(-1) != groups_NGP.all(-1)).any():
            raise UserError(
                f"conditioning frames must fill whole groups of {group}, as each latent frame "
                f"stands for {group} frames: 0 to {group - 1}, {group} to {2 * group - 1}, …"
            )
        if self.mask_NT.all(1).any():
            raise UserError("all frames of a video are conditioning frames: leave some to be made")

    def groups(self, group: int) -> NDArray[np.bool_]:
        """Which groups are conditioning frames, (N, T / group)."""
        return np.all(self.mask_NT.reshape(len(self.videos_NTHWC), -1, group), axis=-1)

    def filled(self) -> Videos:
        """The videos with every other frame replaced by the conditioning frame nearest in time, the
        earlier of two.

        The encoder's receptive field reaches beyond a group: a repeated frame distorts its latent
        less than a black one does.
        """
        place = np.arange(self.videos_NTHWC.shape[1])
        distance_TT = np.abs(place[:, None] - place)
        far = len(place)
        nearest_NT = np.where(self.mask_NT[:, None], distance_TT, far).argmin(-1)
        return np.take_along_axis(self.videos_NTHWC, nearest_NT[..., None, None, None], axis=1)
