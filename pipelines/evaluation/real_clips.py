"""The real clips that samples are compared with: drawn from `videos.parquet`, then extracted.

Two disjoint sets are drawn: one to compare with, and one for the floor, the distance of real
clips from other real clips. Samples have the classes, rates and captions of the first, and the
second has the classes and rates: a floor of other proportions would lie too high. All training
clips, and some held-out ones, are prepared for the search for copies.

Shapes: N clips, D features or numbers of a thumbnail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.batches import Batch, ClipRef, Kind, clip_batches
from pipelines.evaluation.features import FORMAT, Features, FeatureSpec
from pipelines.evaluation.inputs import Inputs
from pipelines.evaluation.settings import Evaluate
from pipelines.evaluation.statistics import Statistics
from pipelines.io import rates
from pipelines.io.markers import Marker
from pipelines.sharding import manifest
from vqvdm.errors import UserError, listed
from vqvdm.seeds import mix

Extract: TypeAlias = Callable[
    [Inputs, FeatureSpec, Sequence[Batch]], Iterator[tuple[Batch, Features]]
]
"""Extracts the features of batches on workers; yields them in any order."""


HELD_OUT = 512
"""Clips that training never saw, to tell how near training clips usually are."""
MAY_LACK = 0.05
"""Share of the floor's clips that may be missing for want of clips of their class."""


@dataclass(frozen=True)
class OtherClip:
    """A candidate for the floor."""

    class_index: int
    fps: float
    features_D: NDArray


@dataclass
class RealClips:
    """The real clips that were drawn, and what was extracted from them."""

    refs: list[ClipRef]
    statistics: Statistics
    floor: Statistics
    class_index_N: NDArray
    fps_N: NDArray
    captions: list[str | None]
    """What samples are told of each; None of one without a caption, and where they are told
    none."""
    train: list[Batch]
    """All training clips; their thumbnails are cached."""
    held_out_ND: NDArray[np.uint8] | None
    """Thumbnails of clips that training never saw."""
    videos: int = 0
    """Videos that the real clips were drawn from."""
    only_at: list[float] | None = None
    """Their rates, where clips of others were left out; None where none were."""


@dataclass(frozen=True)
class Drawn:
    """Clips that were drawn, before anything is extracted from them."""

    rows: list[dict[str, Any]]
    """Of `videos.parquet`: id, uri, clips and label."""
    refs: list[ClipRef]
    others: list[ClipRef]
    """Candidates for the floor."""
    captions: list[str | None]
    """Of the real clips, as of `RealClips`."""
    among: frozenset[ClipRef] | None = None
    """Real and held-out clips at the rates of --fps; None where those are all."""

    @cached_property
    def label_of(self) -> dict[str, str | None]:
        """The label of each video by its id."""
        return {row["id"]: row["label"] for row in self.rows}

    def unjudged(self, markers: Sequence[Marker], count: int, seed: int) -> list[ClipRef]:
        """At most `count` training clips of videos none of whose clips, of whichever part or span,
        is among the real ones, but one of each class that has any.

        Classes have as many as each other, as far as they have them: drawn from all, the clips of
        a rare class, or of some of many, would often be none.
        """
        ids = {ref.source for ref in self.refs}
        judged = {row["uri"] for row in self.rows if row["id"] in ids}
        rows = [row for row in self.rows if row["uri"] not in judged]
        refs = draw(_of(markers, "train"), rows, "clips", None, seed)
        before, turns = Counter[str | None](), []
        for ref in refs:
            label = self.label_of[ref.source]
            turns.append(before[label])
            before[label] += 1
        first = np.argsort(turns, kind="stable")[: max(count, len(before))]
        return [refs[i] for i in sorted(first)]

    def labels_to_train_on(self, markers: Sequence[Marker]) -> set[str | None]:
        """Labels of all training clips, judged or not."""
        return {self.label_of[id] for id, _, _ in _videos(_of(markers, "train"), self.rows)}


def _of(markers: Sequence[Marker], split: str) -> list[Marker]:
    return [marker for marker in markers if marker.split == split]


def draw_clips(inputs: Inputs, markers: Sequence[Marker], extract: Extract) -> Drawn:
    """Draw the real clips, and candidates for the floor."""
    # There may be millions of videos: only the columns that a draw needs become objects.
    columns = ["id", "uri", "clips", "label"]
    uri, told = inputs.config.workspace.manifest, dict[str, str]()
    rows = manifest.read(uri).select(columns).to_pylist()
    among = clips_at(inputs, markers, rows, extract)
    refs, others = draw_real(inputs, markers, rows, among)
    if inputs.captions:
        told = manifest.texts_of(uri, inputs.captions, {ref.source for ref in refs})
    captions = [told.get(ref.source) for ref in refs]
    # The floor is of distances only.
    return Drawn(rows, refs, others if inputs.detector else [], captions, among)


def clips_at(
    inputs: Inputs, markers: Sequence[Marker], rows: Sequence[dict[str, Any]], extract: Extract
) -> frozenset[ClipRef] | None:
    """The real and the held-out clips at the rates of --fps; None where those are all of them.

    `UserError` where no real clip has one of these rates. Only shards tell the rates of clips:
    they are read once, as features are.
    """
    wanted = inputs.config.rates
    if wanted is None:
        return None
    real = {marker.name for marker in _split(inputs, markers)}
    read = [marker for marker in markers if marker.name in real or marker.split == "val"]
    batches = clip_batches("rates", read, draw(read, rows, "clips", None, 0), [FORMAT, "rates"])
    spec = FeatureSpec(None, None, None, None, motion=False, ssim=False, thumbnails=False)
    fps_of: dict[ClipRef, float] = {}
    for batch, found in extract(inputs, spec, batches):
        fps_of |= dict(zip(batch.refs, found["fps"].tolist(), strict=True))
    known = sorted({fps for ref, fps in fps_of.items() if ref.shard in real})
    for rate in wanted:
        if not any(rates.is_one_of(each, [rate]) for each in known):
            raise UserError(
                f"--fps {rate:g}: real clips have {_in_words(known)} frames a second; motion at "
                "other rates is not comparable"
            )
    chosen = {fps for fps in set(fps_of.values()) if rates.is_one_of(fps, wanted)}
    among = frozenset(ref for ref, fps in fps_of.items() if fps in chosen)
    return None if len(among) == len(fps_of) else among


def extract_real_clips(
    inputs: Inputs, spec: FeatureSpec, markers: Sequence[Marker], drawn: Drawn, extract: Extract
) -> RealClips:
    """Extract the features of the real clips, and prepare the search for copies."""
    config, rows, refs, others = inputs.config, drawn.rows, drawn.refs, drawn.others
    basis = [spec.fingerprint, "real", inputs.index["classes"]]
    batches = clip_batches("real", markers, refs, basis)
    batches += clip_batches("floor", markers, others, basis)
    train: list[Batch] = []
    held_out: list[Batch] = []
    if spec.thumbnails:
        train = _to_search(markers, rows, "train", config.num_train, config.seed)
        held_out = _to_search(markers, rows, "val", HELD_OUT, config.seed, drawn.among)
    labels = [drawn.label_of[ref.source] or "" for ref in refs]
    strata_N = np.unique(labels, return_inverse=True)[1]
    statistics = Statistics(
        "real clips", len(refs), config.chosen.is_splits, config.seed, strata=strata_N
    )
    index_N, fps_N = np.full(len(refs), -1), np.zeros(len(refs))
    others_rows: dict[int, OtherClip] = {}
    thumbnails: list[NDArray[np.uint8]] = []
    for batch, found in extract(inputs, spec, [*batches, *train, *held_out]):
        indices = np.array(batch.indices)
        if batch.kind == "train":
            continue
        if batch.kind == "held-out":
            thumbnails.append(found["thumbnails"])
            continue
        if batch.kind == "floor":
            others_rows |= {
                place: OtherClip(int(index), float(fps), features_D)
                for place, index, fps, features_D in zip(
                    batch.indices,
                    found["class_index"],
                    found["fps"],
                    found["features"],
                    strict=True,
                )
            }
            continue
        statistics.add(found, indices)
        index_N[indices], fps_N[indices] = found["class_index"], found["fps"]
    # Rates are matched where clips were cut at several; else they are the videos' own.
    several = len(inputs.index["spec"]["rates"]) > 1
    wanted = [
        (int(index), float(fps) if several else 0.0)
        for index, fps in zip(index_N, fps_N, strict=True)
    ]
    found_others = [others_rows[place] for place in sorted(others_rows)]
    floor = floor_like(wanted, found_others, several, config.seed)
    held_out_ND = np.concatenate(thumbnails) if thumbnails else None
    return RealClips(
        refs,
        statistics,
        floor,
        index_N,
        fps_N,
        drawn.captions,
        train,
        held_out_ND,
        videos=len(_videos(_split(inputs, markers), rows, drawn.among)),
        only_at=None if drawn.among is None else statistics.rates,
    )


def _to_search(
    markers: Sequence[Marker],
    rows: Sequence[dict[str, Any]],
    split: str,
    count: int | None,
    seed: int,
    among: frozenset[ClipRef] | None = None,
) -> list[Batch]:
    """Any clips of a split, or of those `among` them, for thumbnails; the seed differs from that
    of the real clips."""
    refs = draw(_of(markers, split), rows, "clips", count, seed + 1, among)
    # In the order of the shards, so that a shard's key does not depend on the draw of all.
    refs.sort(key=lambda ref: (ref.shard, ref.source, ref.ordinal))
    kind: Kind = "train" if split == "train" else "held-out"
    return clip_batches(kind, markers, refs, [FORMAT, "thumbnails"])


def draw_real(
    inputs: Inputs,
    markers: Sequence[Marker],
    rows: Sequence[dict[str, Any]],
    among: frozenset[ClipRef] | None = None,
) -> tuple[list[ClipRef], list[ClipRef]]:
    """Two disjoint sets of real clips: one to compare with, and candidates for the floor.

    Of each class there are as many candidates as real clips, if there are, for each frame rate that
    clips were cut at and are compared at. Both are `among` some clips, if these are given.
    """
    config, chosen = inputs.config, inputs.config.chosen
    wanted = config.num_real or chosen.num_samples
    refs = draw(_split(inputs, markers), rows, chosen.real_draw, None, config.seed, among)
    real, rest = refs[:wanted], refs[wanted:]
    label_of = {row["id"]: row["label"] for row in rows}
    left = Counter(label_of[ref.source] for ref in real)
    cut_at = inputs.index["spec"]["rates"]
    if among is not None and len(cut_at) > 1:
        cut_at = [rate for rate in cut_at if rates.is_one_of(rate, config.rates or [])]
    for label in left:
        left[label] *= max(1, len(cut_at))
    others = []
    for ref in rest:
        if left[label_of[ref.source]] > 0:
            left[label_of[ref.source]] -= 1
            others.append(ref)
    return real, others


def floor_like(
    wanted: Sequence[tuple[int, float]], others: Sequence[OtherClip], by_rate: bool, seed: int
) -> Statistics:
    """The statistics of other real clips in the proportions of the real ones, whose class indices
    and rates are given."""
    there = [(clip.class_index, clip.fps if by_rate else 0.0) for clip in others]
    chosen = [others[i] for i in matched(wanted, there)]
    strata = np.array([clip.class_index for clip in chosen])
    floor = Statistics("other real clips", len(chosen), 1, seed, strata=strata)
    if chosen:
        rows_ND = np.stack([clip.features_D for clip in chosen])
        floor.add({"features": rows_ND}, np.arange(len(chosen)))
    return floor


def matched(wanted: Sequence[Hashable], there: Sequence[Hashable]) -> list[int]:
    """Positions of the largest part of `there` with the proportions of `wanted`, at most as many.

    A part may lack `MAY_LACK` of itself, where some kinds are too few.
    """
    places: dict[Hashable, list[int]] = {}
    for place, kind in enumerate(there):
        places.setdefault(kind, []).append(place)
    kinds = Counter(wanted)
    for count in range(len(wanted), 0, -1):
        taken = [
            place
            for kind, number in kinds.items()
            for place in places.get(kind, [])[: round(count * number / len(wanted))]
        ]
        if len(taken) >= (1 - MAY_LACK) * count:
            return sorted(taken)
    return []


def _split(inputs: Inputs, markers: Sequence[Marker]) -> list[Marker]:
    """The shards that real clips are drawn from."""
    wanted = inputs.config.chosen.real_split
    split = [m for m in markers if m.keys and wanted in (m.split, "all")]
    if not split:
        others = sorted({m.split for m in markers if m.keys})
        raise UserError(f"no real clips in split {wanted}: pass --real-split {others[0]}")
    return split


def _videos(
    markers: Sequence[Marker],
    rows: Sequence[dict[str, Any]],
    among: frozenset[ClipRef] | None = None,
) -> list[tuple[str, Sequence[int], str]]:
    """Id, ordinals of clips and shard of every video with clips in these shards, in order; only
    clips `among` some, if these are given."""
    shard_of = {source: marker.name for marker in markers for source in marker.sources}
    clips_of = {row["id"]: row["clips"] or 0 for row in rows if row["id"] in shard_of}
    found = []
    for id, clips in sorted(clips_of.items()):
        ordinals: Sequence[int] = range(clips)
        if among is not None:
            ordinals = [k for k in ordinals if ClipRef(shard_of[id], id, k) in among]
        if ordinals:
            found.append((id, ordinals, shard_of[id]))
    return found


def draw(
    markers: Sequence[Marker],
    rows: Sequence[dict[str, Any]],
    by: str,
    count: int | None,
    seed: int,
    among: frozenset[ClipRef] | None = None,
) -> list[ClipRef]:
    """All clips, or at most `count`, in random order, without repetition; only those `among` some,
    if these are given.

    `rows` are those of `videos.parquet`. By `videos`, every video gives one random clip; by
    `clips`, every clip is equally likely. Videos are sorted by id: the order of rows is irrelevant.
    """
    found = _videos(markers, rows, among)
    rng = np.random.default_rng(mix(seed, 0xD4A3))
    if by == "videos":
        places = [ClipRef(shard, id, ks[int(rng.integers(len(ks)))]) for id, ks, shard in found]
    else:
        places = [ClipRef(shard, id, k) for id, ks, shard in found for k in ks]
    return [places[i] for i in rng.permutation(len(places))[:count]]


def check_rates(config: Evaluate, bundle: Mapping[str, Any], real: RealClips) -> None:
    """`UserError` if the model has no rate of the clips, unless --fps names it."""
    known = sorted(set(real.fps_N.tolist()))
    new = [] if config.rates else rates.others(bundle, known)
    if new:
        common = next((rate for rate in known if rate not in new), None)
        cure = "cut clips at its rates"
        if common is not None:
            cure = f"pass --fps to compare at common rates only, such as --fps {common:g}"
        raise UserError(
            f"real clips have {new[0]:g} frames a second, and the model was trained at "
            f"{_in_words(bundle['fps'])}: they are not comparable; {cure}"
        )


def _in_words(fps: Iterable[float]) -> str:
    return listed(f"{rate:g}" for rate in fps)
