"""What a sharding will take: a few of its videos are cut, and the clips thrown away."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.cluster.cores import local_cpus
from pipelines.io.markers import to_be_cleared
from pipelines.io.progress import time_in_words
from pipelines.io.scratch import scratch
from pipelines.io.shards import ShardWriter
from pipelines.sharding.clip_shards import ShardPlan, VideoTask, decoding_process
from pipelines.sharding.finished import clips_there
from pipelines.sharding.manifest import Source
from pipelines.sharding.plans import Plans
from pipelines.sharding.settings import ShardVideos
from pipelines.sharding.sources import LocalVideos
from pipelines.video.decoding_process import Deadline
from pipelines.video.reasons import VideoError
from vqvdm.errors import UserError

VIDEOS = 8
"""Videos that are cut at most."""
PART_S = 20.0
"""Seconds that are cut of a longer video."""
BEGIN_S = 20.0
"""Seconds after which no further video is begun."""


@dataclass
class Sample:
    """What a few videos gave, extrapolated to their whole lengths."""

    videos: int = 0
    weight: float = 0.0
    """Sum of the weights of the videos: bytes, if the listing has them."""
    clips: float = 0.0
    core_s: float = 0.0
    """Seconds of cutting; files are fetched before."""
    fetch_s: float = 0.0
    """Seconds of fetching: once for each file, whatever its length and however many its parts."""
    bytes_of_clip: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    """Why videos are not ok."""


def in_words(plans: Plans, config: ShardVideos) -> str:
    """What the job would do, and what it would take."""
    spec = plans.spec
    kinds = f"of {len(spec.classes)} classes" if spec.classes else "without classes"
    lines = [f"would cut {len(plans.sources)} videos {kinds} into {len(plans)} shards"]
    lines += plans.note_on_spans()
    from_scratch = config.overwrite and to_be_cleared(plans.folder, spec.hash)
    there = {} if from_scratch else clips_there(plans, config)
    if there:
        lines.append(f"{len(there)} of the shards are there, with {sum(there.values())} clips")
    if len(there) < len(plans):
        lines += foreseen(plans.only(name for name in plans.places if name not in there), config)
    return "\n".join(lines)


def foreseen(plans: Plans, config: ShardVideos) -> list[str]:
    """Clips, bytes and hours of shards that are to be made, in lines of words; none for shards
    that no video falls into."""
    rows_N = np.concatenate([place.rows_N for place in plans.places.values()])
    if not len(rows_N):
        return []
    weight_N = _weights(plans.sources.sizes_N[rows_N])
    # Ids are hashes: the lowest are a random sample, and the same one each time. Of the parts of a
    # video it has one.
    wholes = plans.sources.whole(rows_N)
    weight_of_row_N = np.zeros(len(plans.sources))
    weight_of_row_N[rows_N] = weight_N
    chosen = wholes[:VIDEOS]
    sample = _cut(plans, plans.sources.take(chosen), weight_of_row_N[chosen])
    return _in_words(sample, float(weight_N.sum()), float(weight_of_row_N[wholes].sum()), config)


def _weights(size_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of the work that each video is taken for: its bytes. One of unknown size has the
    mean; where most are unknown, all are alike."""
    known = size_N > 0
    if 2 * known.sum() <= len(size_N):
        return np.ones(len(size_N))
    return np.where(known, size_N, size_N[known].mean())


def _cut(plans: Plans, sources: list[Source], weights: NDArray[np.float64]) -> Sample:
    """Cut videos one after the other, in this process and its decoding process."""
    sample = Sample()
    # A process that has to start first would count for the first video.
    list(decoding_process(plans.decode_limits.max_memory_gb).run(_nothing, None, Deadline(60.0)))
    began = time.monotonic()
    with scratch() as folder:
        name = next(iter(plans.places))
        plan = ShardPlan(str(folder), name, tuple(sources), plans.spec, plans.decode_limits)
        with ShardWriter(plan.folder, name) as writer, LocalVideos() as videos:
            for source, weight in zip(sources, weights.tolist(), strict=True):
                if sample.videos and time.monotonic() - began > BEGIN_S:
                    break
                _add(sample, source, plan, writer, videos)
                sample.videos += 1
                sample.weight += weight
            written = time.monotonic()
            marker = writer.publish([], plan.spec.hash, plan.made_from, {})
        if marker.keys:
            sample.bytes_of_clip = marker.bytes / len(marker.keys)
            each_s = (time.monotonic() - written) / len(marker.keys)
            sample.core_s += each_s * sample.clips
    return sample


def _nothing(_: None) -> Iterator[None]:
    yield None


def _add(
    sample: Sample, source: Source, plan: ShardPlan, writer: ShardWriter, videos: LocalVideos
) -> None:
    """Cut the beginning of a video, or all of it where that gives no clip."""
    began = time.monotonic()
    if not source.refused:
        with suppress(VideoError, UserError, OSError):  # Raised again where the task asks for it.
            videos.path(source)
    sample.fetch_s += time.monotonic() - began
    began = time.monotonic()
    part_s = max(PART_S, plan.spec.filters.min_duration_s)
    account, share = VideoTask(source, plan, writer, most_s=part_s).run(videos), 1.0
    if account.duration_s is not None:
        start_s = account.start_s or source.start_s or 0.0
        end_s = account.end_s or source.end_s or math.inf
        share = max(1.0, (min(account.duration_s, end_s) - start_s) / part_s)
    if share > 1 and not account.clips:
        began = time.monotonic()
        account, share = VideoTask(source, plan, writer).run(videos), 1.0
    sample.clips += account.clips * share
    sample.core_s += (time.monotonic() - began) * share
    if account.reason:
        sample.reasons[account.reason] += 1


def _in_words(
    sample: Sample, weight: float, weight_of_files: float, config: ShardVideos
) -> list[str]:
    if not sample.clips:
        why = ", ".join(f"{n} {reason}" for reason, n in sample.reasons.most_common())
        return [
            f"{sample.videos} of them were cut to see what comes of them, without a clip: {why}"
        ]
    factor = weight / sample.weight
    clips = sample.clips * factor
    core_s = sample.core_s * factor + sample.fetch_s * weight_of_files / sample.weight
    cores = min(local_cpus(), config.num_workers or local_cpus())
    on = f"{cores} cores" if cores > 1 else "one core"
    time_ = time_in_words(core_s / cores / 60)
    line = (
        f"about {_rounded(clips)} clips, {_bytes(clips * sample.bytes_of_clip)}; "
        f"{time_} on {on} as here ({_rounded(core_s / 3600)} core hours)"
    )
    if config.core_hour_price is not None:
        line += f", {_rounded(core_s / 3600 * config.core_hour_price)} at the price given"
    basis = f"estimated from {sample.videos} of the videos, cut here and thrown away"
    if sample.reasons:
        lost = ", ".join(f"{n} {reason}" for reason, n in sample.reasons.most_common())
        basis += f", of which are not ok: {lost}"
    if config.filters.min_distance:
        basis += "; near-duplicates, which are found first and left out, are not looked for"
    return [line, basis]


def _rounded(value: float) -> str:
    """Two digits that count: `12,000`, `3.1`, `0.02`."""
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


def _bytes(size: float) -> str:
    units = ["kB", "MB", "GB", "TB", "PB"]
    size /= 1000
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{_rounded(size)} {units[0]}"
