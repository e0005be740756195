"""Making one shard of clips: its videos are decoded in turn, each with an account.

A shard that is there is kept if it is made from just these videos. If it is made from some of them,
their clips are copied.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cache

from pipelines.io import checksums
from pipelines.io.connection import is_refusal
from pipelines.io.markers import Marker, is_sound, read_marker
from pipelines.io.shards import CLIP, ShardWriter
from pipelines.sharding import manifest
from pipelines.sharding.clips import (
    ClipSpec,
    CutRequest,
    DroppedClip,
    EncodedClip,
    Outcome,
    Part,
    cut_video,
)
from pipelines.sharding.clips_of_videos import keys_of_parts
from pipelines.sharding.columns import from_text
from pipelines.sharding.earlier_clips import NO_CLIPS, EarlierClips, earlier_clips
from pipelines.sharding.manifest import CLIP_FIELDS, Account, Source
from pipelines.sharding.sources import LocalVideos
from pipelines.sharding.spans import parts_read
from pipelines.video.decoding_process import Deadline, DecodingProcess
from pipelines.video.header import VideoInfo, check_place
from pipelines.video.reasons import VideoError
from vqvdm.errors import UserError

FORMAT = 5
"""Changed whenever sound videos of a steady rate would give other bytes: roots made before are then
refused. Where only odd videos are cut better, roots stay valid as they are."""


@dataclass(frozen=True)
class DecodeLimits:
    """Time-out and memory limit of decoding one video; only videos that fail depend on them."""

    timeout_s: float = 120.0
    max_memory_gb: float = 2.0

    def allowed_s(self, duration_s: float | None) -> float:
        """Time for a video of this length: for each minute that is begun the same."""
        return self.timeout_s * max(1, math.ceil((duration_s or 0.0) / 60))


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
    numberings: frozenset[str] = frozenset()
    """Numberings that an index has published: a shard that is there keeps such a one."""

    @property
    def made_from(self) -> str:
        """Fingerprint of all that the clips depend on, but for the class indices."""
        contents = [source.content for source in self.sources]
        duplicates = [self.near_duplicates] if self.near_duplicates else []
        return checksums.fingerprint([self.spec.hash, contents, *duplicates])

    @property
    def numbering(self) -> str:
        return numbering(self.spec.classes)

    def is_of(self, marker: Marker) -> bool:
        """Whether a shard with this marker is the one that is planned."""
        numberings = {self.numbering, *self.numberings}
        return marker.made_from == self.made_from and marker.details.get("numbering") in numberings

    def standing(self, verify: bool) -> Marker | None:
        """The marker of the shard if it is there as planned."""
        marker = read_marker(self.folder, self.name)
        if marker is None or not self.is_of(marker):
            return None
        return marker if is_sound(self.folder, marker, verify) else None


def near_duplicates_of(marker: Marker) -> dict[str, tuple[str, float]]:
    """The near-duplicates that a shard was made with, as a plan has them."""
    return {
        source.id: ((account.detail or "").removeprefix("of "), account.score or 0.0)
        for source, account in manifest.from_marker(marker.details)
        if account.reason == "near_duplicate"
    }


def clip_key(source: Source, clip: EncodedClip, spec: ClipSpec) -> str:
    """A name for a clip that depends on the video's path, the span and the settings only."""
    span = [clip.fps, clip.start_frame, spec.frames]
    return checksums.fingerprint([FORMAT, source.id, span, spec.size])


def numbering(classes: Iterable[str]) -> str:
    """Fingerprint of the classes, in order, that class indices count."""
    return checksums.fingerprint(list(classes))


def class_index(label: str | None, classes: tuple[str, ...]) -> int | None:
    """The index of a label; None without one, or for a class that is not known to have clips."""
    return classes.index(label) if label in classes else None


def request_for(
    source: Source, path: str, spec: ClipSpec, most_s: float | None = None
) -> CutRequest:
    """What to cut from a local copy of a video."""
    span = None if source.span is None or source.spans is None else (source.span, source.spans)
    part_s = source.start_s or 0.0, source.end_s
    return CutRequest(path, spec, source.frames_fps, *part_s, span, most_s)


@cache
def decoding_process(max_memory_gb: float) -> DecodingProcess:
    """The decoding process of this worker."""
    return DecodingProcess(max_memory_gb)


class VideoTask:
    """Adds the clips of one video to a shard; errors of the video go into its account."""

    def __init__(
        self,
        source: Source,
        plan: ShardPlan,
        writer: ShardWriter,
        earlier: EarlierClips = NO_CLIPS,
        most_s: float | None = None,
    ) -> None:
        self.source, self.plan, self.writer, self.earlier = source, plan, writer, earlier
        self.most_s = most_s
        """How many seconds to cut at most; by default all."""
        rates = plan.spec.rates if source.fps is None else (source.fps,)
        self.spec = replace(plan.spec, rates=rates)
        self.info: VideoInfo | None = None
        self.span: Part | None = None
        self.keys: list[str] = []
        self.dropped: list[DroppedClip] = []
        self.scores: list[dict[str, float]] = []
        self.frames = 0
        self.place = ""
        """The local file, of which only the name of the video is told: it may be a copy, in a
        folder of another name each time."""

    def run(self, videos: LocalVideos) -> Account:
        if kept := self.plan.near_duplicates.get(self.source.id):
            return self._account(VideoError("near_duplicate", f"of {kept[0]}", kept[1]))
        if account := self.earlier.account(self.source):
            for clip in self.earlier.clips(self.source):
                known = clip.metadata
                described = self._described(known["fps"], known["start_s"], known.get("scores"))
                self.writer.add(clip.key, {CLIP: clip.video, "json": described})
                self.keys.append(clip.key)
            return account
        try:
            if self.source.refused:
                reason, _, detail = self.source.refused.partition(": ")
                raise VideoError(reason, detail)
            self.place = videos.path(self.source)
            check_place(self.place, self.source.frames_fps is not None)
            self._decode(self.place)
            return self._account()
        except VideoError as error:
            return self._account(error) if error.reason == "damaged" else self._lost(error)
        except FileNotFoundError as error:
            return self._lost(VideoError("missing", str(error)))
        except PermissionError as error:
            return self._lost(VideoError("no_permission", str(error)))
        except UserError as error:
            if not is_refusal(error):
                raise  # Storage did not answer: nothing is known about the video.
            return self._lost(VideoError("no_permission", str(error)))

    def _lost(self, error: VideoError) -> Account:
        """The account of a video without its clips: where decoding was interrupted is chance, and
        they must not depend on it."""
        self.writer.drop(self.keys)
        self.keys.clear()
        return self._account(error)

    def _decode(self, path: str) -> None:
        source, limits = self.source, self.plan.decode_limits
        deadline = Deadline(limits.timeout_s)
        request = request_for(source, path, self.spec, self.most_s)
        process, error, begin_s = decoding_process(limits.max_memory_gb), None, 0.0
        with parts_read(source) as read:
            for event in process.run(cut_video, request, deadline, read):
                match event:
                    case VideoInfo():
                        self.info = event
                        deadline.allowed_s = limits.allowed_s(event.duration_s)
                    case Part(start_s, end_s):
                        self.span, begin_s = event, start_s
                        if end_s is not None:
                            minutes = math.ceil((end_s - start_s) / 60)
                            deadline.allowed_s = limits.timeout_s * minutes
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
                    minutes = math.ceil((event.start_s - begin_s) / 60) + 1
                    deadline.allowed_s = max(deadline.allowed_s, limits.timeout_s * minutes)
            # Otherwise raised at its end: a process whose results are not taken is ended.
            if error:
                raise error

    def _add(self, clip: EncodedClip) -> None:
        key = clip_key(self.source, clip, self.spec)
        described = self._described(clip.fps, clip.start_s, clip.scores)
        self.writer.add(key, {CLIP: clip.video, "json": described})
        self.keys.append(key)

    def _described(self, fps: float, start_s: float, scores: dict[str, float] | None) -> bytes:
        """The JSON of a clip."""
        label = self.source.label
        metadata = {
            "label": label,
            "class_index": class_index(label, self.spec.classes),
            "fps": fps,
            "start_s": start_s,
            "frames": self.spec.frames,
            "source": self.source.path,
        }
        assert metadata.keys() == CLIP_FIELDS, metadata.keys()
        metadata = from_text(self.source.columns) | metadata
        return checksums.json_bytes(metadata | ({"scores": scores} if scores else {}))

    def _account(self, error: VideoError | None = None) -> Account:
        if not self.keys and error is None:
            error = self._why_none()
        status = "ok" if error is None else "partial" if self.keys else "rejected"
        detail = error.detail if error else ""
        if self.place:
            detail = detail.replace(self.place, self.source.path)
        return Account(
            status,
            error.reason if error else None,
            len(self.keys),
            **(asdict(self.info) if self.info else {}),
            frames=self.frames,
            score=error.score if error else None,
            detail=detail or None,
            dropped=[
                {k: v for k, v in asdict(clip).items() if k != "scores"} for clip in self.dropped
            ],
            scores=self.scores,
            **(asdict(self.span) if self.span else {}),
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
    plan, retry = row["plan"], row["retry"]
    marker = plan.standing(row["verify"])
    if marker and not (retry and failures(marker)):
        return {"name": plan.name, "marker": marker.to_json(), "made": False}
    earlier = read_marker(plan.folder, plan.name)
    if earlier and earlier.spec_hash != plan.spec.hash:
        earlier = None
    with ShardWriter(plan.folder, plan.name) as writer:
        with earlier_clips(plan.folder, earlier, retry) as clips:
            tasks = [VideoTask(source, plan, writer, clips) for source in plan.sources]
            with LocalVideos() as videos:
                accounts = [(task.source, task.run(videos)) for task in tasks]
        marker = writer.publish(
            [source.id for source in plan.sources],
            plan.spec.hash,
            plan.made_from,
            manifest.to_marker(accounts)
            | {"numbering": _numbering(plan, accounts)}
            | keys_of_parts((task.source, task.keys) for task in tasks),
        )
    return {"name": plan.name, "marker": marker.to_json(), "made": True}


def _numbering(plan: ShardPlan, accounts: Iterable[tuple[Source, Account]]) -> str:
    """Empty, which no index has, if there are clips of a class that was not expected to have any:
    they have no index yet."""
    labels = {source.label for source, account in accounts if account.clips}
    return "" if labels - {None, *plan.spec.classes} else plan.numbering


def failures(marker: Marker) -> int:
    """How many videos of a shard failed, wholly or in part."""
    return sum(account.failed for _, account in manifest.from_marker(marker.details))
