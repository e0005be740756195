"""Videos that samples start from: which there are, and how their frames are given to the model.

Shapes: N videos, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from pipelines.io import storage
from pipelines.sampling.settings import Sample
from pipelines.video import Frames
from pipelines.video.decoding_process import Deadline, DecodingProcess
from pipelines.video.excerpt import Excerpt, first_frames
from pipelines.video.file_names import may_be_shown
from pipelines.video.header import check_place
from pipelines.video.reasons import REASONS, VideoError
from vqvdm.errors import UserError
from vqvdm.known_frames import KnownFrames
from vqvdm.video_shapes import VideoShapes
from vqvdm.windows import count_windows

TIMEOUT_S = 120.0
MAX_MEMORY_GB = 2.0
"""Limits of decoding a condition."""


@dataclass(frozen=True)
class ClipShape:
    """The clips that are asked of a model: what it makes at once."""

    frames: int
    size: int
    group: int
    """Frames that one latent frame stands for."""

    def windows(self, frames: int) -> int:
        """Windows of a video of so many frames; `UserError` for a length that it cannot have."""
        return count_windows(frames, self.frames // self.group, self.group)


def check_mode(config: Sample, bundle: Mapping[str, Any], shapes: VideoShapes) -> ClipShape:
    """The clips that are asked for; `UserError` unless the model can do what is asked: its mode,
    length, size, known frames."""
    if config.mode != "generate" and "conditioning" not in bundle:
        raise UserError(
            f"ldm/{config.ldm} was not trained to go on from frames, as --mode {config.mode} does: "
            "train with jobs/train_ldm.py --conditioning.share 0.5 --name NAME, and pass --ldm NAME"
        )
    trained = shapes.trained[0]
    frames = trained if config.frames is None else config.frames
    if config.mode in ("predict", "interpolate") and frames != trained:
        longer = "; --mode extend makes longer ones" if frames > trained else ""
        raise UserError(
            f"--frames {frames}: --mode {config.mode} makes videos of {trained}{longer}"
        )
    at_once = frames if config.mode == "generate" else trained
    shape = ClipShape(*shapes.at_once(at_once, config.size)[:2], shapes.group)
    if config.mode == "extend":
        shape.windows(frames)
    if config.condition is not None:
        known_count(config, shape)
    return shape


def known_count(config: Sample, shape: ClipShape) -> int:
    """Frames given at the beginning, and at the end too to interpolate; `UserError` for a number
    that is neither 1 nor whole groups, or that leaves none to make."""
    ends, group = 2 if config.mode == "interpolate" else 1, shape.group
    count = config.known_frames
    if count is None:
        count = max(group, shape.frames // (2 * ends) // group * group)
    most = (shape.frames - group) // (ends * group) * group
    if most < group:
        raise UserError(
            f"--mode {config.mode}: {config.ldm} makes clips of {shape.frames} frames in groups of "
            f"{group}, which leave nothing to make between given frames"
        )
    if (count != 1 and count % group) or count > most:
        choices = ", ".join(map(str, sorted({1, *range(group, most + 1, group)})))
        raise UserError(f"--known-frames {count}: {config.ldm} takes {choices}")
    return count


def wanted_frames(config: Sample, shape: ClipShape) -> int:
    """Frames that a condition must have."""
    return shape.frames if config.mode == "interpolate" else known_count(config, shape)


def known_frames(config: Sample, shape: ClipShape, clips_NTHWC: Frames) -> KnownFrames:
    """What conditions of `wanted_frames` frames give to the model."""
    count, held = known_count(config, shape), 1
    if count < shape.group:
        # A still group: the nearest to a single picture that the tokenizer has a latent for.
        held = shape.group
    first_NTHWC = np.repeat(clips_NTHWC[:, :count], held, axis=1)
    known = KnownFrames.first(first_NTHWC, shape.frames)
    if config.mode != "interpolate":
        return known
    known.videos_NTHWC[:, -count * held :] = np.repeat(clips_NTHWC[:, -count:], held, axis=1)
    return KnownFrames.ends(known.videos_NTHWC, count * held)


@dataclass(frozen=True)
class Condition:
    """A video to start from."""

    uri: str
    name: str
    """Its path below the folder that was given."""
    sha256: str

    def label(self, classes: Sequence[str]) -> str | None:
        """The class that its folder is named after, if there is such a class."""
        folder = PurePosixPath(self.uri).parent.name
        return folder if folder in classes else None


def list_conditions(uri: str) -> list[Condition]:
    """A video or picture, or all below a folder by their paths; `UserError` where none is."""
    uri = storage.absolute(uri)
    # A store lists a single file as what lies below it.
    below = [path for file in storage.walk(uri) if (path := file.uri.removeprefix(f"{uri}/"))]
    paths = [path for path in below if may_be_shown(path)]
    if not below and storage.info(uri):
        return [Condition(uri, PurePosixPath(uri).name, storage.sha256(uri))]
    if not paths:
        raise UserError(f"--condition {uri}: no video is there; pass one, or a folder of them")
    places = [(storage.join(uri, path), path) for path in sorted(paths)]
    return [Condition(place, path, storage.sha256(place)) for place, path in places]


def read_conditions(
    conditions: Sequence[Condition], config: Sample, shape: ClipShape
) -> Iterator[Frames]:
    """The frames of each (T, H, W, 3), fitted to the model and to --fps; `UserError` for one that
    does not decode or has too few."""
    process, frames = DecodingProcess(MAX_MEMORY_GB), wanted_frames(config, shape)
    try:
        for condition in conditions:
            found = _decoded(condition, process, shape.size, config.rate, frames)
            if len(found) < frames:
                raise UserError(
                    f"--condition {condition.uri} has {len(found)} frames at {config.rate:g} fps, "
                    f"where {frames} are wanted: give a longer video, another --fps, or with "
                    "--mode predict or extend fewer --known-frames"
                )
            yield found
    finally:
        process.close()


def _decoded(
    condition: Condition, process: DecodingProcess, size: int, fps: float, frames: int
) -> Frames:
    try:
        with storage.local_copy(condition.uri) as path:
            check_place(path, is_folder=False)
            excerpt = Excerpt(path, size, fps, frames)
            (found,) = process.run(first_frames, excerpt, Deadline(TIMEOUT_S))
        if isinstance(found, VideoError):
            raise found
        return found
    except VideoError as error:
        raise UserError(
            f"--condition {condition.uri} cannot be used ({error}). {REASONS[error.reason]}"
        ) from error
