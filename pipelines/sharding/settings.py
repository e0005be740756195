"""Settings of `shard_videos`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pipelines.settings import Job, VideosJob, parse_rates
from vqvdm.errors import UserError
from vqvdm.ranges import Count, CountFrom0, NotNegative, Positive, Range


@dataclass(frozen=True)
class Limits:
    """Videos beyond these are rejected, before decoding if the header gives the figure."""

    max_pixels: Count = 2**25
    """Pixels of a frame; by default 8K passes."""
    max_duration_s: Annotated[float, Range(1)] = 7200.0
    """Length in seconds of a video, or of a span of one."""


@dataclass(frozen=True)
class Filters:
    """What is left out on request; 0 turns a filter off."""

    min_size: CountFrom0 = 0
    """Least short side of a video in pixels."""
    min_duration_s: NotNegative = 0.0
    """Least length of a video in seconds."""
    min_fps: NotNegative = 0.0
    """Least frame rate of a video, by its header."""
    min_motion: NotNegative = 0.0
    """Least mean difference between neighbouring frames of a clip, of 255; 0.5 finds stills."""
    min_brightness: NotNegative = 0.0
    """Least mean of a clip, of 255; 8 finds black ones."""
    min_distance: NotNegative = 0.0
    """Least distance of a video from every one that is kept, in bits of 64 of a perceptual hash;
    4 finds copies that were encoded again."""


@dataclass(frozen=True)
class Selection:
    """How labels and splits are found."""

    labels: str = "folder"
    splits: str = "random"
    val_fraction: float = 0.1
    val_list: str | None = None
    group_by: str = ""
    frames_fps: float | None = None
    columns: str = "all"
    span_mb: int | None = None
    met: set[str] = field(default_factory=set)
    """Names of the further columns that a listing met, kept or not."""


@dataclass(frozen=True)
class ShardVideos(VideosJob):
    """Cut videos into fixed-length clips, packed in WebDataset shards."""

    labels: str = "folder"
    """`folder` (what the input says of a video, or else the first folder below --videos), `none`,
    or a CSV, JSON-lines or Parquet file with columns path and label, and maybe split, start_s,
    end_s, fps."""
    columns: str = "all"
    """Which further columns of tables, or of the JSON beside a video, go into the clips' JSON and
    `videos.parquet`: `all`, `none`, or names such as caption,mood."""
    frames: Count = 16
    """Frames a clip."""
    size: Count = 128
    """Height and width: the short side is resized to it and the centre square cut out."""
    stride: Count | None = None
    """Frames between the starts of two clips, at the clip's rate; by default --frames."""
    fps: str = "native"
    """`native`, or one or more rates: 8,16 cuts every video at both."""
    frames_fps: Positive | None = None
    """Treat every folder of images as a video at this rate."""
    scenes: Literal["none", "detect"] = "none"
    """`detect` finds hard cuts, and no clip straddles one."""
    crop_bars: bool = False
    """Cut letterbox bars off first."""
    splits: Literal["random", "folders"] = "random"
    """`folders`: the first folder below --videos names the split, such as train or sky_test;
    labels are those below it. `random`: see --val-fraction and --val-list."""
    val_fraction: Annotated[float, Range(0, 1, open_above=True)] = 0.1
    """Share of the videos kept for validation."""
    val_list: str | None = None
    """File of video paths kept for validation instead, one a line; searched for as given, then
    below --videos, then beside it. `none` for no list."""
    group_by: str = r"_g\d+_"
    """Videos whose paths are equal up to the end of this regular expression's match go into the
    same split."""
    limits: Limits = Limits()
    filters: Filters = Filters()
    scores: bool = False
    """Keep the brightness, motion and sharpness of every clip, and its largest change from frame to
    frame, also of those that filters remove, so that thresholds are chosen by what there is."""
    timeout_s: Positive = 120.0
    """Seconds of decoding allowed for each minute of a video of 1920x1080 at 30 frames a second,
    in proportion more for more pixels or frames; then decoding is ended."""
    max_memory_gb: Positive = 2.0
    """Address space of the decoding process; a video that needs more is rejected."""
    retry_failed: bool = False
    """Try videos that failed again."""
    verify: bool = False
    """Read all shards that are there and compare their checksums; by default only of those whose
    size or time differs from their marker's. Whatever reads a shard compares its checksum."""
    strict: bool = False
    """Exit with status 1 if any video failed, wholly or in part."""
    limit: Count | None = None
    """Take only this many videos, evenly spread over splits and classes; more take the same and
    others."""
    videos_per_shard: Count = 64
    """About how many videos share a shard."""
    shard_mb: Count | None = None
    """About how many MiB of videos, as they are listed, share a shard, in place of
    --videos-per-shard; clips of small videos take several times as much. A video of unknown size
    counts as the mean of the others."""
    span_mb: Count = 512
    """MiB of a video file from which on it is cut in spans, each a shard and a task of its own: of
    equal length, none of more bytes than this on average. Files of formats without an index stay
    whole, and so do those that a table takes parts of."""
    core_hour_price: Positive | None = None
    """What a core costs an hour, in any currency: --dry-run, which it is for, tells what the job
    will cost by it."""

    NOT_RECIPE: ClassVar[frozenset[str]] = Job.NOT_RECIPE | {
        # Which videos there are, of which class and split, with which columns: a shard is made from
        # just that of its own videos, however they were chosen.
        "videos",
        "labels",
        "splits",
        "val_fraction",
        "val_list",
        "group_by",
        "frames_fps",
        "columns",
        "limit",
        "videos_per_shard",
        "shard_mb",
        "span_mb",
        "retry_failed",
        "verify",
        "strict",
        "timeout_s",
        "max_memory_gb",
        "core_hour_price",
    }

    LATER: ClassVar[Mapping[str, Any]] = {
        "scores": False,
        "filters.min_fps": 0.0,
    }

    @property
    def selection(self) -> Selection:
        """How labels and splits are found."""
        return Selection(
            self.labels,
            self.splits,
            self.val_fraction,
            self.val_list,
            self.group_by,
            self.frames_fps,
            self.columns,
            self.span_mb,
        )

    @property
    def rates(self) -> list[float | None]:
        """Frame rates to cut at; None stands for the video's own."""
        return [None] if self.fps == "native" else list(parse_rates(self.fps, "native"))

    def check(self) -> None:
        super().check()
        if self.size % 2:
            raise UserError(f"--size {self.size} is odd: video codecs need an even number")
        if self.core_hour_price is not None and not self.dry_run:
            raise UserError("--core-hour-price is for --dry-run: add that, or drop the price")
        if self.splits == "folders" and self.val_list not in (None, "none"):
            raise UserError("--splits folders names the split: drop --val-list, or pass random")
        try:
            re.compile(self.group_by)
        except re.error as error:
            raise UserError(f"--group-by {self.group_by}: no regular expression: {error}") from None
        _ = self.rates
