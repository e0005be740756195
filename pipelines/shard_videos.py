"""Sharding: videos to fixed-length clips in WebDataset shards.

    listing ──▶ plan (video → split, shard) ──▶ one task a shard ──▶ marker ──▶ manifest, index

The plan needs a listing only. A task reads its videos one after the other, writes one shard and
returns its account of them; pixels never pass through Ray's object store. A shard whose marker
matches the plan is left alone, so a job that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import ray

from pipelines import tracking
from pipelines.config.scale import quieten_ray_data, ray_options
from pipelines.config.schema import ShardVideos
from pipelines.io import manifest, shards, storage, workspace
from pipelines.io.manifest import Account, Source
from pipelines.io.plan import SourceTable, assign_shards
from pipelines.io.shards import Marker, ShardWriter
from pipelines.io.video import (
    Frames,
    Resampler,
    VideoError,
    VideoInfo,
    encode_lossless,
    probe,
    read_frames,
)
from pipelines.progress import Progress
from vqvdm.errors import UserError

FORMAT = 1
"""Changed whenever the same videos and settings would give other bytes."""


@dataclass(frozen=True)
class ClipSpec:
    """How clips are cut."""

    frames: int
    size: int
    stride: int
    rates: tuple[float | None, ...]
    """Frames a second; None stands for the video's own rate."""
    classes: tuple[str, ...]
    hash: str
    """Fingerprint of all settings: a folder holds the clips of one."""


@dataclass(frozen=True)
class ShardPlan:
    """One task: the videos of one shard, and where it goes."""

    folder: str
    name: str
    sources: tuple[Source, ...]
    spec: ClipSpec

    @property
    def made_from(self) -> str:
        sources = [asdict(source) for source in self.sources]
        return storage.fingerprint([self.spec.hash, self.spec.classes, sources])


@dataclass(frozen=True)
class Clip:
    frames_THWC: Frames
    fps: float
    start_frame: int


class ClipCutter:
    """Cuts a stream of frames into clips at one rate, holding no more than one clip."""

    def __init__(self, spec: ClipSpec, rate: float | None, native_fps: float) -> None:
        self.spec, self.fps = spec, rate or native_fps
        self._resampler = Resampler(rate) if rate else None
        self._window: list[Frames] = []
        self._seen = 0

    def push(self, time_s: float, frame: Frames) -> Iterator[Clip]:
        ticks = self._resampler.push(time_s, frame) if self._resampler else [frame]
        yield from self._cut(ticks)

    def finish(self) -> Iterator[Clip]:
        yield from self._cut(self._resampler.finish() if self._resampler else [])

    def _cut(self, ticks: list[Frames]) -> Iterator[Clip]:
        for frame in ticks:
            # With a stride longer than a clip, the frames between two clips are passed over.
            start = self._seen // self.spec.stride * self.spec.stride
            if self._window or self._seen - start < self.spec.frames:
                self._window.append(frame)
            self._seen += 1
            if len(self._window) == self.spec.frames:
                first = self._seen - self.spec.frames
                yield Clip(np.stack(self._window), self.fps, first)
                self._window = self._window[self.spec.stride :]


def cut_clips(path: str, info: VideoInfo, spec: ClipSpec) -> Iterator[Clip]:
    """All clips of a local video at every rate, in one pass; raises `VideoError` on the way."""
    cutters = [ClipCutter(spec, rate, info.fps) for rate in spec.rates]
    for time_s, frame in read_frames(path, spec.size):
        for cutter in cutters:
            yield from cutter.push(time_s, frame)
    for cutter in cutters:
        yield from cutter.finish()


def clip_key(source: Source, clip: Clip, spec: ClipSpec) -> str:
    """A name for a clip that depends on the video's path, the span and the settings only."""
    span = [clip.fps, clip.start_frame, spec.frames]
    return storage.fingerprint([FORMAT, source.path, span, spec.size])


def shard_video(source: Source, spec: ClipSpec, writer: ShardWriter) -> Account:
    """Add the clips of one video to a shard; whatever is wrong with the video is its account."""
    info, clips = None, 0
    status, reason = "ok", None
    class_index = spec.classes.index(source.label) if source.label is not None else None
    try:
        with storage.local_copy(source.uri) as path:
            info = probe(path)
            for clip in cut_clips(path, info, spec):
                key = clip_key(source, clip, spec)
                about = {
                    "label": source.label,
                    "class_index": class_index,
                    "fps": clip.fps,
                    "start_s": clip.start_frame / clip.fps,
                    "frames": spec.frames,
                    "source": source.path,
                }
                mp4 = encode_lossless(clip.frames_THWC, clip.fps)
                writer.add(key, {"mp4": mp4, "json": storage.json_bytes(about)})
                clips += 1
        if not clips:
            status, reason = "rejected", "too_short"
    except VideoError as error:
        status, reason = ("partial" if clips else "rejected"), error.reason
    except FileNotFoundError:
        status, reason = "rejected", "missing"
    except PermissionError:
        status, reason = "rejected", "no_permission"
    except UserError as error:
        # A server that does not answer says nothing about the video.
        if not storage.is_refusal(error):
            raise
        status, reason = "rejected", "no_permission"
    known = asdict(info) if info else {}
    return Account(status, reason, clips, **known)


def make_shard(row: dict) -> dict:
    """Make one shard, or verify the one that is there: the task that Ray runs.

    Takes {"plan": ShardPlan, "retry": bool}, gives {"marker": its JSON, "made": bool}.
    """
    plan: ShardPlan = row["plan"]
    marker = shards.finished(plan.folder, plan.name, plan.made_from)
    if marker and not (row["retry"] and failures(marker)):
        return {"marker": shards.to_json(marker), "made": False}
    with ShardWriter(plan.folder, plan.name) as writer:
        accounts = [(source, shard_video(source, plan.spec, writer)) for source in plan.sources]
        marker = writer.publish(
            [source.id for source in plan.sources],
            plan.spec.hash,
            plan.made_from,
            manifest.to_marker(accounts),
        )
    return {"marker": shards.to_json(marker), "made": True}


def failures(marker: Marker) -> int:
    """How many videos of a shard were damaged or rejected."""
    return sum(account.status != "ok" for _, account in manifest.from_marker(marker.details))


def plan_shards(config: ShardVideos) -> list[ShardPlan]:
    """What would be made: shards in order, each with its videos."""
    sources = manifest.list_sources(
        config.videos_uri, config.labels, config.val_fraction, config.val_list
    )
    if config.limit and config.limit < len(sources):
        picks = np.linspace(0, len(sources) - 1, config.limit).round().astype(int)
        sources = [sources[index] for index in picks]
    classes = tuple(sorted({source.label for source in sources if source.label is not None}))
    spec = ClipSpec(
        config.frames,
        config.size,
        config.stride or config.frames,
        tuple(config.rates),
        classes,
        storage.fingerprint([FORMAT, config.recipe()]),
    )
    return [
        ShardPlan(config.workspace.clips, shards.shard_name(split, index), tuple(members), spec)
        for (split, index), members in assign_shards(SourceTable(sources), config.videos_per_shard)
    ]


def index_of(spec: ClipSpec, markers: list[Marker]) -> dict:
    """`clips/index.json`: what is in the shards."""
    counts = Counter[str]()
    for marker in markers:
        counts[marker.split] += len(marker.keys)
    return {
        "spec": json.loads(storage.json_bytes(asdict(spec) | {"format": FORMAT})),
        "spec_hash": spec.hash,
        "classes": list(spec.classes),
        "counts": dict(counts),
        "shards": [marker.name for marker in markers],
        "fingerprint": shards.content_fingerprint(markers),
        # The account is published before the index: an index that tells of it vouches for it.
        "account": storage.fingerprint([marker.details for marker in markers]),
    }


def shard_videos(config: ShardVideos) -> str:
    """Cut every video below --videos into clips under ROOT/clips."""
    config.check()
    started = time.monotonic()
    plans = plan_shards(config)
    spec = plans[0].spec
    videos = sum(len(plan.sources) for plan in plans)
    if config.dry_run:
        return f"would cut {videos} videos of {len(spec.classes)} classes into {len(plans)} shards"
    folder = config.workspace.clips
    found = shards.filled_with(folder)
    if found and config.overwrite:
        storage.delete(folder)
    elif found:
        workspace.refuse_other(folder, found, spec.hash)

    ray.init(**ray_options())
    ray.data.DataContext.get_current().enable_progress_bars = False
    quieten_ray_data()
    rows = [{"plan": plan, "retry": config.retry_failed} for plan in plans]
    graph = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        make_shard, num_cpus=1, concurrency=config.num_workers
    )
    markers, made = [], 0
    watch = Progress("shards", len(rows))
    for row in graph.iter_rows():
        marker = shards.from_json(row["marker"])
        markers.append(marker)
        made += row["made"]
        watch.add(1, clips=len(marker.keys), failed=failures(marker))
    markers.sort(key=lambda marker: marker.name)
    accounts = [pair for marker in markers for pair in manifest.from_marker(marker.details)]
    index = index_of(spec, markers)
    summary = summarise(accounts)
    lost = {status: count for status, count in summary.items() if status != "ok"}
    if config.strict and lost:
        # Everything that can be made was made: the same command without --strict accepts it.
        raise RuntimeError(f"--strict: not every video is ok: {lost}")
    shards.sweep(folder, index["shards"])
    if not made and workspace.published(folder, "index.json") == index:
        return f"{sum(index['counts'].values())} clips are there already, verified"
    with tracking.run("shard_videos", config) as run:
        manifest.publish(config.workspace.manifest, accounts)
        storage.publish_json(index, storage.join(folder, "index.json"))
        clips = sum(index["counts"].values())
        seconds = time.monotonic() - started
        run.metrics({f"clips/{split}": n for split, n in index["counts"].items()})
        run.metrics({f"videos/{status}": n for status, n in summary.items()})
        run.metrics({"throughput/clips_per_s": clips / seconds})
        run.output(index["fingerprint"])
    return f"{clips} clips of {videos} videos" + (f", not ok: {lost}" if lost else "")


def summarise(accounts: list[tuple[Source, Account]]) -> dict[str, int]:
    """How many videos there are of each status, with the reason of those that are not ok."""
    return dict(
        Counter(
            account.status if account.reason is None else f"{account.status}-{account.reason}"
            for _, account in accounts
        )
    )
