"""Sharding: videos to fixed-length clips in WebDataset shards.

    listing ──▶ plan (video → split, shard) ──▶ one task a shard ──▶ marker ──▶ manifest, index

The plan needs a listing only. A task reads its videos one after the other, writes one shard and
returns its account of them; pixels never pass through Ray's object store. A shard whose marker
matches the plan is left alone, so a job that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import cache

import numpy as np
import ray

from pipelines import shard_report, tracking
from pipelines.config.scale import quieten_ray_data, ray_options
from pipelines.config.schema import ShardVideos
from pipelines.io import inputs, manifest, shards, storage, workspace
from pipelines.io.child import Child, Deadline
from pipelines.io.clips import ClipSpec
from pipelines.io.cutting import CutRequest, DroppedClip, EncodedClip, Outcome, cut_video
from pipelines.io.manifest import Account, Source
from pipelines.io.plan import SourceTable, assign_shards
from pipelines.io.reasons import VideoError
from pipelines.io.shards import Marker, ShardWriter
from pipelines.io.video.header import VideoInfo, check_place
from pipelines.progress import Progress
from vqvdm.errors import IncompleteError, UserError

FORMAT = 2
"""Changed whenever the same videos and settings would give other bytes."""


@dataclass(frozen=True)
class Patience:
    """What decoding one video may take; no result depends on it but of videos that fail."""

    timeout_s: float = 120.0
    max_memory_gb: float = 2.0


@dataclass(frozen=True)
class ShardPlan:
    """One task: the videos of one shard, and where it goes."""

    folder: str
    name: str
    sources: tuple[Source, ...]
    spec: ClipSpec
    patience: Patience = Patience()

    @property
    def made_from(self) -> str:
        sources = [asdict(source) for source in self.sources]
        return storage.fingerprint([self.spec.hash, self.spec.classes, sources])


def clip_key(source: Source, clip: EncodedClip, spec: ClipSpec) -> str:
    """A name for a clip that depends on the video's path, the span and the settings only."""
    span = [clip.fps, clip.start_frame, spec.frames]
    return storage.fingerprint([FORMAT, source.id, span, spec.size])


@cache
def decoding_process(max_memory_gb: float) -> Child:
    """The one that this worker sends its videos to."""
    return Child(max_memory_gb)


def local_video(source: Source) -> AbstractContextManager[str]:
    """A local path of a video, or of its folder of images."""
    if source.frames_fps is not None:
        return storage.local_folder(source.uri)
    return storage.local_copy(source.uri)


class VideoTask:
    """Adds the clips of one video to a shard; whatever is wrong with it is its account."""

    def __init__(self, source: Source, plan: ShardPlan, writer: ShardWriter) -> None:
        self.source, self.plan, self.writer = source, plan, writer
        rates = plan.spec.rates if source.fps is None else (source.fps,)
        self.spec = replace(plan.spec, rates=rates)
        self.info: VideoInfo | None = None
        self.keys: list[str] = []
        self.dropped: list[DroppedClip] = []
        self.frames = 0

    def run(self) -> Account:
        try:
            with local_video(self.source) as path:
                check_place(path, self.source.frames_fps is not None)
                self._decode(path)
            return self._account()
        except VideoError as error:
            if error.reason != "damaged":
                # Where decoding was broken off is chance: clips must not depend on it.
                self.writer.drop(self.keys)
                self.keys.clear()
            return self._account(error)
        except FileNotFoundError as error:
            return self._account(VideoError("missing", str(error)))
        except PermissionError as error:
            return self._account(VideoError("no_permission", str(error)))
        except UserError as error:
            if not storage.is_refusal(error):
                raise  # Storage did not answer: nothing is known about the video.
            return self._account(VideoError("no_permission", str(error)))

    def _decode(self, path: str) -> None:
        source, patience = self.source, self.plan.patience
        deadline = Deadline(patience.timeout_s)
        start_s = source.start_s or 0.0
        request = CutRequest(path, self.spec, source.frames_fps, start_s, source.end_s)
        for event in decoding_process(patience.max_memory_gb).run(cut_video, request, deadline):
            match event:
                case VideoInfo():
                    self.info = event
                    minutes = math.ceil((event.duration_s or 0.0) / 60)
                    deadline.allowed_s = patience.timeout_s * max(1, minutes)
                case EncodedClip():
                    self._add(event)
                case DroppedClip():
                    self.dropped.append(event)
                case Outcome():
                    self.frames = event.frames
                    if event.error:
                        raise event.error

    def _add(self, clip: EncodedClip) -> None:
        label, classes = self.source.label, self.spec.classes
        about = {
            "label": label,
            "class_index": classes.index(label) if label is not None else None,
            "fps": clip.fps,
            "start_s": clip.start_s,
            "frames": self.spec.frames,
            "source": self.source.path,
        }
        key = clip_key(self.source, clip, self.spec)
        self.writer.add(key, {"mp4": clip.mp4, "json": storage.json_bytes(about)})
        self.keys.append(key)

    def _account(self, error: VideoError | None = None) -> Account:
        if not self.keys and error is None:
            error = self._why_none()
        status = "ok" if error is None else "partial" if self.keys else "rejected"
        return Account(
            status,
            error.reason if error else None,
            len(self.keys),
            **(asdict(self.info) if self.info else {}),
            frames=self.frames,
            score=error.score if error else None,
            detail=error.detail or None if error else None,
            dropped=[asdict(clip) for clip in self.dropped],
        )

    def _why_none(self) -> VideoError:
        """Why a video that decodes gave no clips: filters took them, or there were none."""
        if not self.dropped:
            return VideoError("too_short", f"{self.frames} frames")
        counts = Counter(sorted(clip.reason for clip in self.dropped))
        reason = counts.most_common(1)[0][0]
        best = max(clip.score for clip in self.dropped if clip.reason == reason)
        return VideoError(reason, "all clips", best)


def make_shard(row: dict) -> dict:
    """Make one shard, or verify the one that is there: the task that Ray runs.

    Takes {"plan": ShardPlan, "retry": bool}, gives {"marker": its JSON, "made": bool}.
    """
    plan: ShardPlan = row["plan"]
    marker = shards.finished(plan.folder, plan.name, plan.made_from)
    if marker and not (row["retry"] and failures(marker)):
        return {"marker": shards.to_json(marker), "made": False}
    with ShardWriter(plan.folder, plan.name) as writer:
        accounts = [(source, VideoTask(source, plan, writer).run()) for source in plan.sources]
        marker = writer.publish(
            [source.id for source in plan.sources],
            plan.spec.hash,
            plan.made_from,
            manifest.to_marker(accounts),
        )
    return {"marker": shards.to_json(marker), "made": True}


def failures(marker: Marker) -> int:
    """How many videos of a shard failed, wholly or in part."""
    return sum(account.failed for _, account in manifest.from_marker(marker.details))


def plan_shards(config: ShardVideos) -> list[ShardPlan]:
    """What would be made: shards in order, each with its videos."""
    sources = inputs.list_sources(config.videos_uri, config.selection)
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
        config.scenes,
        config.crop_bars,
        config.limits,
        config.filters,
    )
    folder, patience = config.workspace.clips, Patience(config.timeout_s, config.max_memory_gb)
    return [
        ShardPlan(folder, shards.shard_name(split, index), tuple(members), spec, patience)
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


def run_plans(plans: list[ShardPlan], config: ShardVideos) -> Iterator[tuple[Marker, bool]]:
    """Every shard's marker, and whether it was made just now, as Ray gets them done."""
    ray.init(**ray_options())
    ray.data.DataContext.get_current().enable_progress_bars = False
    quieten_ray_data()
    rows = [{"plan": plan, "retry": config.retry_failed} for plan in plans]
    graph = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        make_shard, num_cpus=1, concurrency=config.num_workers
    )
    watch = Progress("shards", len(rows))
    for row in graph.iter_rows():
        marker = shards.from_json(row["marker"])
        yield marker, row["made"]
        accounts = [account for _, account in manifest.from_marker(marker.details)]
        watch.add(
            1,
            clips=len(marker.keys),
            frames=sum(account.frames for account in accounts),
            rejected=sum(account.status == "rejected" for account in accounts),
        )


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

    done = sorted(run_plans(plans, config), key=lambda pair: pair[0].name)
    markers, made = [marker for marker, _ in done], sum(made for _, made in done)
    accounts = [pair for marker in markers for pair in manifest.from_marker(marker.details)]
    manifest.reconcile(accounts, [s for plan in plans for s in plan.sources], markers)
    print(shard_report.table(accounts), flush=True)
    index = index_of(spec, markers)
    shards.sweep(folder, index["shards"])
    clips = sum(index["counts"].values())
    if not made and workspace.published(folder, "index.json") == index:
        _refuse_failures(accounts, config)
        return f"{clips} clips are there already, verified"
    with tracking.run("shard_videos", config) as run:
        manifest.publish(config.workspace.manifest, accounts)
        shard_report.track(run, accounts, markers, folder, time.monotonic() - started)
        _refuse_failures(accounts, config)
        storage.publish_json(index, storage.join(folder, "index.json"))
        run.output(index["fingerprint"])
    lost = {s: n for s, n in shard_report.counts(accounts).items() if s != "ok"}
    return f"{clips} clips of {videos} videos" + (f", not ok: {lost}" if lost else "")


def _refuse_failures(accounts: list[tuple[Source, Account]], config: ShardVideos) -> None:
    failed = sum(account.failed for _, account in accounts)
    if config.strict and failed:
        # Everything that can be made was made: the same command without --strict accepts it.
        raise IncompleteError(
            f"--strict: {failed} of {len(accounts)} videos failed; {config.workspace.manifest} "
            "has the reasons, --retry-failed tries them again"
        )
