"""The report of a sharding: a table of outcomes, the rejected videos, a few clips.

It receives one shard after the other, and keeps only counts of the videos that are ok.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pipelines.io import shards
from pipelines.io.markers import SPLITS, Listing, Marker, Written
from pipelines.io.records import values_of
from pipelines.sharding import marker_cache
from pipelines.sharding.clips import ClipSpec
from pipelines.sharding.manifest import (
    Account,
    ManifestWriter,
    Source,
    accounts_of,
    digest,
    rows_of,
    source_column,
)
from pipelines.sharding.marker_cache import MarkerCache, Shard, shards_of
from pipelines.tracking.run import Run
from pipelines.video import Frames
from pipelines.video.encoder import decode_clip
from pipelines.video.reasons import FAILURES, REASONS
from vqvdm.errors import listed

SHEET_COLUMNS, SHEET_ROWS = 4, 12
"""Clips in a row, each shown by four of its frames, and number of rows."""
PEEK_BYTES = 4 << 20
"""How much of a shard is read for the sheet."""
FEW_CLIPS = 8
"""Training clips of a class below which a note names it."""
NAMED = 10
"""Classes that a note names."""
NAMED_VIDEOS = 3
"""Videos that are not ok which notes name."""
ADVICE = {
    "too_short": "lower --frames, or raise --fps",
    "no_frame_rate": "pass --fps",
    "too_many_pixels": "raise --limits.max-pixels",
    "too_long": "raise --limits.max-duration-s, or lower --span-mb",
    "timed_out": "raise --timeout-s",
    "out_of_memory": "raise --max-memory-gb",
    "no_permission": "give this user the right to read the files",
    "too_small": "lower --filters.min-size",
    "too_brief": "lower --filters.min-duration-s",
    "low_frame_rate": "lower --filters.min-fps",
    "static": "lower --filters.min-motion",
    "black": "lower --filters.min-brightness",
}
"""What to change where a reason takes all videos."""


def _state(status: str, reason: str | None) -> str:
    return status if reason is None else f"{status}-{reason}"


class Report:
    """Counts, rejected videos, and the account of every video; `place` is its own folder, `cache`
    what knows shards that stand."""

    def __init__(self, place: Path, cache: MarkerCache | None = None) -> None:
        self.manifest = ManifestWriter(place, cache.again if cache else None)
        self.place = place
        self.videos = self.failed = self.frames = self.made = self.known = 0
        self.clips_of: dict[str, Counter[str]] = {}
        """Clips of each split, by class."""
        self._shards: list[Shard] = []
        self._cells: dict[str, Counter[str]] = {}
        self._rejected: list[list[Any]] = []

    @property
    def shards(self) -> list[Shard]:
        """Finished shards in the order of their names."""
        return sorted(self._shards, key=lambda shard: shard.name)

    def add(
        self,
        marker: Marker,
        accounts: list[tuple[Source, Account]],
        made: bool,
        files: tuple[Written, Written],
    ) -> dict[str, int]:
        """Add a shard: its videos, whether it was made by this job, and its tar and marker as a
        `Shard` has them. Gives its clips, frames and rejected videos."""
        numbering = marker.details.get("numbering")
        found = marker.name, marker.sha256, len(marker.keys), digest(accounts), numbering
        self._shards.append(Shard(*found, *files))
        self.made += made
        self.manifest.add(marker.name, accounts)
        for source, account in accounts:
            outcome = account.status, account.reason, source.label, source.split
            self._count(*outcome, 1, account.clips, len(account.dropped), account.frames)
            self._rejected += _rejected_rows(source, account)
        return {
            "clips": len(marker.keys),
            "frames": sum(account.frames for _, account in accounts),
            "rejected": sum(account.status == "rejected" for _, account in accounts),
        }

    def add_known(self, table: pa.Table) -> dict[str, int]:
        """As `add`, for shards that the cache knows."""
        found, rows = shards_of(table), rows_of(table)
        self._shards += found
        self.known += len(found)
        self.manifest.add_known([shard.name for shard in found], rows)
        keys = {
            "status": rows["status"],
            "reason": rows["reason"],
            "label": source_column(rows, "label"),
            "split": source_column(rows, "split"),
        }
        dropped = pc.list_value_length(rows["dropped"])
        sums = {"clips": rows["clips"], "dropped": dropped, "frames": rows["frames"]}
        grouped = pa.table(keys | sums).group_by(list(keys))
        groups = grouped.aggregate([([], "count_all"), *((name, "sum") for name in sums)])
        names = [*keys, "count_all", *(f"{name}_sum" for name in sums)]
        columns = [values_of(groups[name].combine_chunks()) for name in names]
        counts = Counter[str]()
        for group in zip(*columns, strict=True):
            self._count(*group)
            status, _, _, _, videos, clips, _, frames = group
            counts.update(clips=clips, frames=frames, rejected=videos * (status == "rejected"))
        is_told = pc.or_(pc.is_valid(rows["reason"]), pc.greater(dropped, 0))
        for source, account in accounts_of(rows.filter(is_told)):
            self._rejected += _rejected_rows(source, account)
        return counts

    def _count(
        self,
        status: str,
        reason: str | None,
        label: str | None,
        split: str,
        videos: int,
        clips: int,
        dropped: int,
        frames: int,
    ) -> None:
        """Count videos of one outcome."""
        self.videos += videos
        self.failed += videos * (reason in FAILURES)
        self.frames += frames
        row = self._cells.setdefault(_state(status, reason), Counter())
        row[split] += videos
        row["clips"] += clips
        row["dropped"] += dropped
        if label is not None and clips:
            self.clips_of.setdefault(label, Counter())[split] += clips

    def publish(self, manifest: str | None, folder: str, spec: ClipSpec, listed: Listing) -> None:
        """Publish the manifest of videos, where one is to be, and then what it knows of the shards
        in a folder; `listed` is a listing from after all was made."""
        with marker_cache.writing(folder, spec, self._shards, listed, self.place) as write:
            if manifest:
                self.manifest.publish(manifest, write)
            elif write:
                for table in self.manifest.by_shard():
                    write(table)

    def counts(self) -> dict[str, int]:
        """How many videos there are of each status, with the reason of those that are not ok."""
        return {
            name: sum(row[split] for split in SPLITS) for name, row in sorted(self._cells.items())
        }

    def table(self) -> str:
        """The summary: videos and clips of each status and reason, by split."""
        total = sum(self._cells.values(), Counter[str]())
        assert sum(total[split] for split in SPLITS) == self.videos
        columns = [*SPLITS, "videos", "clips"] + ["dropped"] * bool(total["dropped"])
        width = max(len(name) for name in (*self._cells, "total"))
        lines = [" ".join([" " * width, *(f"{name:>9}" for name in columns)])]
        for name, row in [*sorted(self._cells.items()), ("total", total)]:
            cells = row | {"videos": sum(row[split] for split in SPLITS)}
            figures = " ".join(f"{cells.get(column, 0):>9}" for column in columns)
            lines.append(f"{name:<{width}} {figures}")
        return "\n".join(lines)

    def notes_on_classes(self, listed: set[str]) -> list[str]:
        """Lines on the listed classes that have no clips, and on those with few to train on."""
        without = sorted(listed - set(self.clips_of))
        few = [
            f"{name} ({clips['train']})"
            for name, clips in sorted(self.clips_of.items())
            if clips["train"] < FEW_CLIPS
        ]
        notes = []
        if without:
            notes.append(f"note: left out, as they give no clip: {_counted(without)}")
        if few:
            notes.append(f"note: fewer than {FEW_CLIPS} clips to train on: {_counted(few)}")
        return notes

    def notes_on_losses(self, account: str) -> list[str]:
        """Lines that name some videos that are not ok, failures first, and where all are listed."""
        lost = [row for row in self._rejected if row[2] != "clip"]
        order = sorted(lost, key=lambda row: (row[3] not in FAILURES, row[0]))
        notes = [f"{row[2]}: {row[0]}: {REASONS[row[3]]}" for row in order[:NAMED_VIDEOS]]
        if len(lost) > NAMED_VIDEOS:
            notes.append(f"and {len(lost) - NAMED_VIDEOS} more")
        if lost:
            notes.append(f"{account} has the reason of each video")
        return notes

    def why_no_clips(self, account: str) -> str:
        """One line: which reasons took how many videos, and what to change about the first."""
        counts = Counter({state: sum(row[s] for s in SPLITS) for state, row in self._cells.items()})
        reasons = [(state.partition("-")[2], count) for state, count in counts.most_common()]
        listing = ", ".join(f"{count} {reason}" for reason, count in reasons)
        first = reasons[0][0]
        advice = ADVICE.get(first, "mend or leave out these videos")
        return (
            f"no clips of {self.videos} videos: {listing}; {first}: {advice}. "
            f"{account} has the reason of each"
        )

    def rejected_csv(self) -> bytes:
        """A row for each video that is not ok, and for each clip that a filter removed."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "split", "status", "reason", "score", "start_s", "fps", "detail"])
        rows = sorted(self._rejected, key=lambda row: row[0])
        writer.writerows(rows)
        return text.getvalue().encode("utf-8", "backslashreplace")

    def track(self, run: Run, folder: str, seconds: float) -> None:
        """Log counts, throughput, rejected videos and the contact sheet to the run."""
        clips = Counter[str]()
        for shard in self._shards:
            clips[shard.split] += shard.clips
        run.metrics({f"clips/{split}": n for split, n in clips.items()})
        run.metrics({f"videos/{state}": n for state, n in self.counts().items()})
        run.metrics({"throughput/clips_per_s": clips.total() / seconds})
        run.metrics({"throughput/frames_per_s": self.frames / seconds})
        run.bytes(self.rejected_csv(), "videos/rejected.csv")
        run.bytes(self.table().encode(), "videos/summary.txt")
        if sheet := contact_sheet(folder, self.shards):
            run.bytes(sheet, "videos/contact_sheet.png")


def _counted(classes: list[str]) -> str:
    count = f"{len(classes)} class{'es' if len(classes) > 1 else ''}"
    return f"{count}, {listed(classes, NAMED)}"


def _rejected_rows(source: Source, account: Account) -> list[list[Any]]:
    head: list[Any] = [source.path, source.split]
    rows: list[list[Any]] = []
    if account.reason:
        # A whole number in a marker is none in a column.
        score = None if account.score is None else float(account.score)
        cause = [account.reason, score, source.start_s, source.fps]
        rows.append([*head, account.status, *cause, account.detail or REASONS[account.reason]])
    for clip in account.dropped:
        cause = [clip["reason"], clip["score"], clip["start_s"], clip["fps"]]
        rows.append([*head, "clip", *cause, ""])
    return rows


def contact_sheet(folder: str, made: list[Shard]) -> bytes | None:
    """A PNG of clips from shards spread over the data set, four frames of each in a row."""
    wanted = SHEET_COLUMNS * SHEET_ROWS
    filled = [shard for shard in made if shard.clips]
    if not filled:
        return None
    chosen = np.unique(np.linspace(0, len(filled) - 1, min(8, len(filled))).round().astype(int))
    each = -(-wanted // len(chosen))
    strips: list[Frames] = []
    for index in chosen:
        for sample in list(shards.peek(folder, filled[index].name, PEEK_BYTES))[:each]:
            frames = decode_clip(shards.clip_of(sample.members))
            four = frames[np.linspace(0, len(frames) - 1, 4).round().astype(int)]
            strips.append(np.concatenate(four, axis=1))
    if not strips:
        return None
    strips = strips[:wanted]
    blank = np.zeros_like(strips[0])
    strips += [blank] * (-len(strips) % SHEET_COLUMNS)
    rows = [
        np.concatenate(strips[start : start + SHEET_COLUMNS], axis=1)
        for start in range(0, len(strips), SHEET_COLUMNS)
    ]
    file = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(file, "PNG")
    return file.getvalue()
