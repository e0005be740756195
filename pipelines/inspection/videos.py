"""What `videos.parquet` says: videos and clips of each class, what was lost, lengths and sizes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

UNLABELLED = "(no class)"
DURATIONS = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Limits of the bars of lengths, in seconds."""
SIDES = (64, 96, 128, 256, 480, 720, 1080)
"""Limits of the bars of short sides, in pixels."""
RATES = (8.0, 12.0, 16.0, 24.0, 25.0, 30.0, 50.0)
"""Limits of the bars of frame rates."""

Bars = list[tuple[str, int]]
"""A word and a count for each bar."""


@dataclass
class OfClass:
    """The videos of a class that give clips."""

    videos: Counter[str] = field(default_factory=Counter)
    """By split."""
    clips: Counter[str] = field(default_factory=Counter)
    """By split."""
    largest: int = 0
    """Training clips of the video that gives most."""


@dataclass
class Videos:
    """The manifest of all videos, summed up."""

    count: int
    hours: float
    """Of videos that give clips."""
    states: Counter[str]
    """Videos by status and reason."""
    classes: dict[str, OfClass]
    sides_N: NDArray[np.int64]
    """Short sides of videos that give clips, in pixels."""
    rates_N: NDArray[np.float64]
    """Their frame rates."""
    durations: Bars
    sides: Bars
    rates: Bars

    @property
    def clips(self) -> Counter[str]:
        return sum((each.clips for each in self.classes.values()), Counter[str]())

    @property
    def lost(self) -> Counter[str]:
        """Videos that are not ok, by status and reason."""
        return Counter({state: n for state, n in self.states.items() if state != "ok"})

    @property
    def words(self) -> str:
        """What a training sees, in a few words."""
        classes = [name for name in self.classes if name != UNLABELLED]
        of = f" of {len(classes)} classes" if classes else ", without classes"
        return f"{self.clips['train']:,} clips to train on, {self.clips['val']:,} held out{of}"

    @property
    def metrics(self) -> dict[str, float]:
        found = {f"clips/{split}": float(count) for split, count in self.clips.items()}
        found |= {f"videos/{state}": float(count) for state, count in self.states.items()}
        return found | {"hours": self.hours}

    @property
    def table(self) -> str:
        """Videos and clips of each class, by split."""
        width = max(map(len, (*self.classes, "all")))
        lines = [f"{'':<{width}} {'videos':>8} {'train':>8} {'val':>8}"]
        for name, each in self.classes.items():
            lines.append(
                f"{name:<{width}} {each.videos.total():>8} {each.clips['train']:>8} "
                f"{each.clips['val']:>8}"
            )
        lines.append(
            f"{'all':<{width}} {self.count:>8} {self.clips['train']:>8} {self.clips['val']:>8}"
        )
        return "\n".join(lines)


def summarise(table: pa.Table, classes: list[str]) -> Videos:
    """Sum up the manifest of all videos; `classes` are those of the clips, in order. Others come
    after them, where the manifest is not that of the clips."""
    names = ("label", "split", "status", "reason", "clips")
    label, split, status, reason, clips = (table[name].to_pylist() for name in names)
    of_class = {name: OfClass() for name in classes or [UNLABELLED]}
    for row, count in enumerate(clips):
        if count:
            name = (label[row] if classes else None) or UNLABELLED
            each = of_class.setdefault(name, OfClass())
            each.videos[split[row]] += 1
            each.clips[split[row]] += count
            if split[row] == "train":
                each.largest = max(each.largest, count)
    states = Counter(
        state if cause is None else f"{state}-{cause}"
        for state, cause in zip(status, reason, strict=True)
    )
    used = table.filter(pa.compute.greater(table["clips"], 0))
    sides = np.minimum(_column(used, "width"), _column(used, "height"))
    duration, rate = _lengths(used), _column(used, "fps")
    return Videos(
        len(table),
        float(np.nansum(duration)) / 3600,
        states,
        of_class,
        sides[~np.isnan(sides)].astype(np.int64),
        rate[~np.isnan(rate)],
        bars(duration, DURATIONS, "s"),
        bars(sides, SIDES, "px"),
        bars(rate, RATES, "fps"),
    )


def _lengths(table: pa.Table) -> NDArray[np.float64]:
    """Seconds of each video, of a part those of the part."""
    duration = _column(table, "duration_s")
    end = np.fmin(_column(table, "end_s"), duration)
    return np.where(np.isnan(end), duration, end) - np.nan_to_num(_column(table, "start_s"))


def _column(table: pa.Table, name: str) -> NDArray[np.float64]:
    """A column of numbers; what is missing is not a number."""
    return table[name].cast(pa.float64()).to_numpy(zero_copy_only=False)


def bars(values: NDArray[np.float64], limits: tuple[float, ...], unit: str) -> Bars:
    """How many values lie below the first limit, between each two, and from the last on."""
    known = values[~np.isnan(values)]
    counts = np.bincount(np.searchsorted(limits, known, "right"), minlength=len(limits) + 1)
    words = [f"below {limits[0]:g} {unit}"]
    words += [f"{low:g} to {high:g} {unit}" for low, high in zip(limits, limits[1:], strict=False)]
    words += [f"{limits[-1]:g} {unit} and more"]
    return list(zip(words, counts.tolist(), strict=True))
