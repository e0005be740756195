"""What a user sees of a finished sharding: the table of accounts, the rejected, a few clips."""

from __future__ import annotations

import csv
import io
from collections import Counter

import numpy as np
from PIL import Image

from pipelines.io import shards
from pipelines.io.manifest import Account, Source
from pipelines.io.reasons import REASONS
from pipelines.io.shards import SPLITS, Marker
from pipelines.io.video import Frames, decode_clip
from pipelines.tracking import Run

Accounts = list[tuple[Source, Account]]

SHEET_COLUMNS, SHEET_ROWS = 4, 12
"""Clips side by side, each by four of its frames, and rows of them."""
PEEK_BYTES = 4 << 20
"""How much of a shard is read for the sheet."""


def _state(account: Account) -> str:
    return account.status if account.reason is None else f"{account.status}-{account.reason}"


def counts(accounts: Accounts) -> dict[str, int]:
    """How many videos there are of each status, with the reason of those that are not ok."""
    return dict(sorted(Counter(_state(account) for _, account in accounts).items()))


def table(accounts: Accounts) -> str:
    """The summary: videos and clips of each status and reason, by split."""
    cells: dict[str, Counter[str]] = {}
    for source, account in accounts:
        row = cells.setdefault(_state(account), Counter())
        row[source.split] += 1
        row["clips"] += account.clips
        row["dropped"] += len(account.dropped)
    total = sum(cells.values(), Counter[str]())
    assert sum(total[split] for split in SPLITS) == len(accounts)
    columns = [*SPLITS, "videos", "clips"] + ["dropped"] * bool(total["dropped"])
    width = max(len(name) for name in (*cells, "total"))
    lines = [" ".join([" " * width, *(f"{name:>9}" for name in columns)])]
    for name, row in [*sorted(cells.items()), ("total", total)]:
        row["videos"] = sum(row[split] for split in SPLITS)
        figures = " ".join(f"{row[column]:>9}" for column in columns)
        lines.append(f"{name:<{width}} {figures}")
    return "\n".join(lines)


def rejected_csv(accounts: Accounts) -> bytes:
    """A row for each video that is not ok, and for each clip that a filter took out."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "split", "status", "reason", "score", "start_s", "fps", "detail"])
    for source, account in accounts:
        head = [source.path, source.split]
        if account.reason:
            cause = [account.reason, account.score, source.start_s, source.fps]
            detail = account.detail or REASONS[account.reason]
            writer.writerow([*head, account.status, *cause, detail])
        for clip in account.dropped:
            cause = [clip["reason"], clip["score"], clip["start_s"], clip["fps"]]
            writer.writerow([*head, "clip", *cause, ""])
    return text.getvalue().encode("utf-8", "backslashreplace")


def contact_sheet(folder: str, markers: list[Marker]) -> bytes | None:
    """A PNG of clips from shards all over the data set, four frames of each in a row."""
    wanted = SHEET_COLUMNS * SHEET_ROWS
    filled = [marker for marker in markers if marker.keys]
    if not filled:
        return None
    picks = np.unique(np.linspace(0, len(filled) - 1, min(8, len(filled))).round().astype(int))
    each = -(-wanted // len(picks))
    strips: list[Frames] = []
    for pick in picks:
        for sample in list(shards.peek(folder, filled[pick], PEEK_BYTES))[:each]:
            frames = decode_clip(sample.members["mp4"])
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


def track(run: Run, accounts: Accounts, markers: list[Marker], folder: str, seconds: float) -> None:
    """Keep counts, throughput, the rejected and the sheet with the run."""
    clips = Counter[str]()
    for marker in markers:
        clips[marker.split] += len(marker.keys)
    frames = sum(account.frames for _, account in accounts)
    run.metrics({f"clips/{split}": n for split, n in clips.items()})
    run.metrics({f"videos/{state}": n for state, n in counts(accounts).items()})
    run.metrics({"throughput/clips_per_s": clips.total() / seconds})
    run.metrics({"throughput/frames_per_s": frames / seconds})
    run.bytes(rejected_csv(accounts), "videos/rejected.csv")
    run.bytes(table(accounts).encode(), "videos/summary.txt")
    if sheet := contact_sheet(folder, markers):
        run.bytes(sheet, "videos/contact_sheet.png")
