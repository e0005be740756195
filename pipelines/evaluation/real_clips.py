"""The real clips that samples are compared with: drawn from `videos.parquet`, then extracted.

Two disjoint sets are drawn: one to compare with, and one for the floor, the distance of real
clips from other real clips. Training clips are drawn too, to find the nearest to each sample.

Shapes: N clips, M training clips, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.batches import Batch, ClipRef, clip_batches
from pipelines.evaluation.features import FORMAT, Features, FeatureSpec
from pipelines.evaluation.inputs import Inputs
from pipelines.evaluation.settings import Evaluate
from pipelines.evaluation.statistics import Statistics
from pipelines.io.markers import Marker
from pipelines.settings import parse_rates
from pipelines.sharding import manifest
from vqvdm.errors import UserError
from vqvdm.seeds import mix

Extract: TypeAlias = Callable[
    [Inputs, FeatureSpec, Sequence[Batch]], Iterator[tuple[Batch, Features]]
]
"""Extracts the features of batches on workers; yields them in any order."""


@dataclass
class RealClips:
    """The real clips that were drawn, and what was extracted from them."""

    refs: list[ClipRef]
    statistics: Statistics
    floor: Statistics
    class_index_N: NDArray
    fps_N: NDArray
    train_refs: list[ClipRef]
    train_MD: NDArray | None
    """Features of the training clips."""
    videos: int = 0
    """Videos that the real clips were drawn from."""


def extract_real_clips(
    inputs: Inputs, spec: FeatureSpec, markers: Sequence[Marker], extract: Extract
) -> RealClips:
    """Draw real clips and training clips, and extract their features."""
    config = inputs.config
    # There may be millions of videos: only the columns that a draw needs become objects.
    rows = manifest.read(config.workspace.manifest).select(["id", "clips"]).to_pylist()
    refs, others = draw_real(inputs, markers, rows)
    train = [marker for marker in markers if marker.split == "train"]
    # Any training clips; the seed differs from that of the real clips.
    count = config.num_train if inputs.detector else 0
    train_refs = draw(train, rows, "clips", count, config.seed + 1)
    basis = [spec.fingerprint, "real"]
    batches = clip_batches("real", markers, refs, basis)
    batches += clip_batches("floor", markers, others, basis)
    features_only = [FORMAT, inputs.detector and inputs.detector.sha256, "train"]
    batches += clip_batches("train", markers, train_refs, features_only)
    sets = {
        "real": Statistics("real clips", len(refs), config.chosen.is_splits, config.seed),
        "floor": Statistics("other real clips", len(others), 1, config.seed),
    }
    index_N, fps_N = np.full(len(refs), -1), np.zeros(len(refs))
    train_rows: dict[int, NDArray] = {}
    for batch, found in extract(inputs, spec, batches):
        indices = np.array(batch.indices)
        if batch.group == "train":
            train_rows |= dict(zip(batch.indices, found["features"], strict=True))
            continue
        sets[batch.group].add(found, indices)
        if batch.group == "real":
            index_N[indices], fps_N[indices] = found["class_index"], found["fps"]
    train_MD = np.stack([train_rows[i] for i in range(len(train_refs))]) if train_rows else None
    videos = len(_videos(_split(inputs, markers), rows))
    return RealClips(
        refs, sets["real"], sets["floor"], index_N, fps_N, train_refs, train_MD, videos
    )


def draw_real(
    inputs: Inputs, markers: Sequence[Marker], rows: Sequence[dict[str, Any]]
) -> tuple[list[ClipRef], list[ClipRef]]:
    """Two disjoint sets of real clips: one to compare with, and one for the floor."""
    config, chosen = inputs.config, inputs.config.chosen
    wanted = config.num_real or chosen.num_samples
    refs = draw(_split(inputs, markers), rows, chosen.real_draw, 2 * wanted, config.seed)
    return refs[:wanted], refs[wanted:]


def _split(inputs: Inputs, markers: Sequence[Marker]) -> list[Marker]:
    """The shards that real clips are drawn from."""
    wanted = inputs.config.chosen.real_split
    split = [m for m in markers if m.keys and wanted in (m.split, "all")]
    if not split:
        others = sorted({m.split for m in markers if m.keys})
        raise UserError(f"no real clips in split {wanted}: pass --real-split {others[0]}")
    return split


def _videos(
    markers: Sequence[Marker], rows: Sequence[dict[str, Any]]
) -> list[tuple[str, int, str]]:
    """Id, number of clips and shard of every video with clips in these shards, in order."""
    shard_of = {source: marker.name for marker in markers for source in marker.sources}
    return sorted(
        (row["id"], row["clips"], shard_of[row["id"]])
        for row in rows
        if row["clips"] and row["id"] in shard_of
    )


def draw(
    markers: Sequence[Marker], rows: Sequence[dict[str, Any]], by: str, count: int, seed: int
) -> list[ClipRef]:
    """At most `count` clips in random order, without repetition.

    `rows` are those of `videos.parquet`. By `videos`, every video gives one random clip; by
    `clips`, every clip is equally likely. Videos are sorted by id: the order of rows is irrelevant.
    """
    found = _videos(markers, rows)
    rng = np.random.default_rng(mix(seed, 0xD4A3))
    if by == "videos":
        places = [ClipRef(shard, id, int(rng.integers(clips))) for id, clips, shard in found]
    else:
        places = [ClipRef(shard, id, k) for id, clips, shard in found for k in range(clips)]
    return [places[i] for i in rng.permutation(len(places))[:count]]


def check_rates(config: Evaluate, model_rates: Sequence[float], real: RealClips) -> None:
    """`UserError` if no real clip has a rate of --fps, or the model has no rate of the clips."""
    known = sorted(set(real.fps_N.tolist()))
    if config.fps == "all":
        new = [rate for rate in known if not np.isclose(rate, model_rates, rtol=1e-3).any()]
        if new:
            raise UserError(
                f"real clips have {new[0]:g} frames a second, and the model was trained at "
                f"{', '.join(f'{r:g}' for r in model_rates)}: they are not comparable; pass --fps "
                "to compare at common rates only"
            )
        return
    missing = [rate for rate in parse_rates(config.fps, "all") if rate not in known]
    if missing:
        raise UserError(
            f"--fps {missing[0]:g}: real clips have {', '.join(f'{r:g}' for r in known)} frames "
            "a second; motion at other rates is not comparable"
        )
