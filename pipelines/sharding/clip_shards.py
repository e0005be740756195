"""Making one shard of clips: its videos are decoded in turn, each with an account."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from functools import cache

from pipelines.io import checksums
from pipelines.io.connection import is_refusal
from pipelines.io.markers import Marker, finished
from pipelines.io.shards import ShardWriter, read_shard
from pipelines.sharding import manifest
from pipelines.sharding.clips import (
    ClipSpec,
    CutRequest,
    DroppedClip,
    EncodedClip,
    Outcome,
    cut_video,
)
from pipelines.sharding.columns import from_text
from pipelines.sharding.manifest import CLIP_FIELDS, Account, Source
from pipelines.sharding.sources import local_video
from pipelines.video.decoding_process import Deadline, DecodingProcess
from pipelines.video.header import VideoInfo, check_place
from pipelines.video.reasons import VideoError
from vqvdm.errors import UserError

FORMAT = 4
"""Changed whenever sound videos of a steady rate would give other bytes: roots made before are then
refused. Where only odd videos are cut better, roots stay valid as they are."""


@dataclass(frozen=True)
class DecodeLimits:
    """Time-out and memory limit of decoding one video; only videos that fail depend on them."""

    timeout_s: float = 120.0
    max_memory_gb: float = 2.0


@dataclass(frozen=True)
class ShardPlan:
    """One task: the videos of one shard, and where it goes."""

    folder: str
    name: str
    sources: tuple[Source, ...]
    spec: ClipSpec
    decode_limits: DecodeLimits = DecodeLimits()
    near_duplicates: dict[str, tuple[str, float]] = field(default_factory=dict)
    """By the id of a near-duplicate: the path of the video that is kept, and their distance."""
    earlier_classes: tuple[str, ...] | None = None
    """Classes by which the shard may have been made before: then only its labels change."""

    @property
    def made_from(self) -> str:
        sources = [source.to_dict() for source in self.sources]
        basis = [
            self.spec.hash,
            self.spec.classes,
            sources,
            *([self.near_duplicates] if self.near_duplicates else []),
        ]
        return checksums.fingerprint(basis)


def clip_key(source: Source, clip: EncodedClip, spec: ClipSpec) -> str:
    """A name for a clip that depends on the video's path, the span and the settings only."""
    span = [clip.fps, clip.start_frame, spec.frames]
    return checksums.fingerprint([FORMAT, source.id, span, spec.size])


def class_index(label: str | None, classes: tuple[str, ...]) -> int | None:
    """The index of a label; None without one, or for a class that is not known to have clips."""
    return classes.index(label) if label in classes else None


@cache
def decoding_process(max_memory_gb: float) -> DecodingProcess:
    """The decoding process of this worker."""
    return DecodingProcess(max_memory_gb)


class VideoTask:
    """Adds the clips of one video to a shard; errors of the video go into its account."""

    def __init__(self, source: Source, plan: ShardPlan, writer: ShardWriter) -> None:
        self.source, self.plan, self.writer = source, plan, writer
        rates = plan.spec.rates if source.fps is None else (source.fps,)
        self.spec = replace(plan.spec, rates=rates)
        self.info: VideoInfo | None = None
        self.keys: list[str] = []
        self.dropped: list[DroppedClip] = []
        self.scores: list[dict[str, float]] = []
        self.frames = 0

    def run(self) -> Account:
        if kept := self.plan.near_duplicates.get(self.source.id):
            return self._account(VideoError("near_duplicate", f"of {kept[0]}", kept[1]))
        try:
            if self.source.refused:
                reason, _, detail = self.source.refused.partition(": ")
                raise VideoError(reason, detail)
            with local_video(self.source) as path:
                check_place(path, self.source.frames_fps is not None)
                self._decode(path)
            return self._account()
        except VideoError as error:
            if error.reason != "damaged":
                # Where decoding was interrupted is chance: clips must not depend on it.
                self.writer.drop(self.keys)
                self.keys.clear()
            return self._account(error)
        except FileNotFoundError as error:
            return self._account(VideoError("missing", str(error)))
        except PermissionError as error:
            return self._account(VideoError("no_permission", str(error)))
        except UserError as error:
            if not is_refusal(error):
                raise  # Storage did not answer: nothing is known about the video.
            return self._account(VideoError("no_permission", str(error)))

    def _decode(self, path: str) -> None:
        source, limits = self.source, self.plan.decode_limits
        deadline = Deadline(limits.timeout_s)
        start_s = source.start_s or 0.0
        request = CutRequest(path, self.spec, source.frames_fps, start_s, source.end_s)
        error: VideoError | None = None
        for event in decoding_process(limits.max_memory_gb).run(cut_video, request, deadline):
            match event:
                case VideoInfo():
                    self.info = event
                    minutes = math.ceil((event.duration_s or 0.0) / 60)
                    deadline.allowed_s = limits.timeout_s * max(1, minutes)
                case EncodedClip():
                    self._add(event)
                case DroppedClip():
                    self.dropped.append(event)
                case Outcome():
                    self.frames, error = event.frames, event.error
                    if error and error.reason == "out_of_memory":
                        raise error  # Within the work: the process ends with what it holds.
            if isinstance(event, EncodedClip | DroppedClip):
                if event.scores:
                    span = {"fps": event.fps, "start_s": event.start_s}
                    self.scores.append(span | event.scores)
                # A header may give no length: a minute of clips is worth another minute's time.
                minutes = math.ceil(event.start_s / 60) + 1
                deadline.allowed_s = max(deadline.allowed_s, limits.timeout_s * minutes)
        # Otherwise raised at its end: a process whose results are not taken is ended.
        if error:
            raise error

    def _add(self, clip: EncodedClip) -> None:
        label = self.source.label
        metadata = {
            "label": label,
            "class_index": class_index(label, self.spec.classes),
            "fps": clip.fps,
            "start_s": clip.start_s,
            "frames": self.spec.frames,
            "source": self.source.path,
        }
        assert metadata.keys() == CLIP_FIELDS, metadata.keys()
        scores = {"scores": clip.scores} if clip.scores else {}
        metadata = from_text(self.source.columns) | metadata | scores
        key = clip_key(self.source, clip, self.spec)
        self.writer.add(key, {"mp4": clip.mp4, "json": checksums.json_bytes(metadata)})
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
            dropped=[
                {k: v for k, v in asdict(clip).items() if k != "scores"} for clip in self.dropped
            ],
            scores=self.scores,
        )

    def _why_none(self) -> VideoError:
        """Why a video that decodes gave no clips: filters removed them, or it is too short."""
        if not self.dropped:
            return VideoError("too_short", f"{self.frames} frames")
        counts = Counter(sorted(clip.reason for clip in self.dropped))
        reason = counts.most_common(1)[0][0]
        best = max(clip.score for clip in self.dropped if clip.reason == reason)
        return VideoError(reason, "all clips", best)


def make_shard(row: dict) -> dict:
    """Make one shard, or verify the existing one: the task that Ray runs.

    Takes {"plan": ShardPlan, "retry": bool, "verify": bool}, gives {"name": …, "marker": its JSON,
    "made": bool}.
    """
    plan: ShardPlan = row["plan"]
    marker = finished(plan.folder, plan.name, plan.made_from, row["verify"])
    if marker and not (row["retry"] and failures(marker)):
        return {"name": plan.name, "marker": marker.to_json(), "made": False}
    if marker := _relabelled(plan, row["retry"]):
        return {"name": plan.name, "marker": marker.to_json(), "made": True}
    with ShardWriter(plan.folder, plan.name) as writer:
        accounts = [(source, VideoTask(source, plan, writer).run()) for source in plan.sources]
        marker = writer.publish(
            [source.id for source in plan.sources],
            plan.spec.hash,
            plan.made_from,
            manifest.to_marker(accounts),
        )
    return {"name": plan.name, "marker": marker.to_json(), "made": True}


def _relabelled(plan: ShardPlan, retry: bool) -> Marker | None:
    """Copy the shard that is there if it differs by its classes only; nothing is decoded."""
    if plan.earlier_classes in (None, plan.spec.classes):
        return None
    assert plan.earlier_classes is not None
    earlier = replace(plan, spec=replace(plan.spec, classes=plan.earlier_classes))
    found = finished(plan.folder, plan.name, earlier.made_from)
    if found is None or (retry and failures(found)):
        return None
    with ShardWriter(plan.folder, plan.name) as writer:
        for sample in read_shard(plan.folder, found, "shard_videos"):
            metadata = json.loads(sample.members["json"])
            metadata["class_index"] = class_index(metadata["label"], plan.spec.classes)
            changed = {"json": checksums.json_bytes(metadata)}
            writer.add(sample.key, sample.members | changed)
        return writer.publish(found.sources, found.spec_hash, plan.made_from, found.details)


def failures(marker: Marker) -> int:
    """How many videos of a shard failed, wholly or in part."""
    return sum(account.failed for _, account in manifest.from_marker(marker.details))
