"""Further latents of a clip for training: those of its mirror image.

An encoder does not commute with mirroring, so mirrored clips are encoded, not latents mirrored.
Clips that begin elsewhere are a matter of how videos are cut: `shard_videos --stride`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from pipelines.io.markers import Marker
from pipelines.settings import Augment
from pipelines.video import Frames

MIRRORED = "-mirrored"
"""Ends the key of a mirrored clip. It sorts right after the clip itself."""
Views = Mapping[str, Callable[[Frames], Frames]]
"""By the end of their keys, what is encoded of a batch of clips."""

PLAIN: Views = {"": lambda frames_NTHWC: frames_NTHWC}
"""Clips as they are."""


def mirrored(frames_NTHWC: Frames) -> Frames:
    """Left and right exchanged."""
    return np.flip(frames_NTHWC, axis=3)


def views(augment: Augment, split: str) -> Views:
    """What is encoded of the clips of a split: validation judges by clips as they are."""
    if augment == "none" or split != "train":
        return PLAIN
    return {**PLAIN, MIRRORED: mirrored}


def keys_of_latents(clips: Marker, augment: Augment) -> list[str]:
    """The keys of the latents of a shard of clips, in order."""
    ends = views(augment, clips.split)
    return sorted(key + end for key in clips.keys for end in ends)


def keys_of_clips(keys: Iterable[str]) -> set[str]:
    """The clips that latents of these keys are made of."""
    return {key.removesuffix(MIRRORED) for key in keys}
