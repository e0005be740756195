"""Progress: a bar on a terminal; in a job's log, a line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Mapping

BAR_WIDTH = 20
NAMED = 3
"""Pieces of work that are named when no others are left."""
SHOWN_BYTES = 10**8
"""Bytes in all from which on they are shown."""
Log = Callable[[int, Mapping[str, float]], None]
"""Takes what is done, and what was counted on the way."""


class Progress:
    """Counts work and reports progress: done, rates, time left."""

    def __init__(
        self,
        unit: str,
        total: int,
        every_s: float = 5.0,
        log: Log | None = None,
        total_bytes: int = 0,
    ) -> None:
        """`log` is called every so many seconds, and at the end. With `total_bytes` the time left
        is estimated by bytes: pieces of work may differ in size."""
        self.unit, self.total, self.every_s, self.log = unit, total, every_s, log
        self.total_bytes, self.bytes_done, self.done = total_bytes, 0, 0
        self.last: list[str] = []
        self.counts: dict[str, float] = {}
        self.started = self._printed = time.monotonic()

    def add(
        self, done: int, bytes_done: int = 0, left: Collection[str] = (), **counts: float
    ) -> None:
        """Report work done, and further counts by name; the last of what is `left` are named."""
        self.done += done
        self.bytes_done += bytes_done
        few = len(left) <= NAMED < self.total
        named, self.last = self.last, sorted(left) if few else []
        for name, value in counts.items():
            self.counts[name] = self.counts.get(name, 0) + value
        now = time.monotonic()
        last = self.done == self.total
        # Whatever holds up the end may do so for long: it is named as soon as no other is left.
        due = now - self._printed >= self.every_s or last or (bool(self.last) and not named)
        if due:
            self._printed = now
            if self.log:
                self.log(self.done, self.counts)
        if sys.stdout.isatty():
            # One line, overwritten; the rest of a longer line is cleared.
            end = "\n" if last else ""
            print(f"\r{self.bar()} {self.line(now - self.started)}\x1b[K", end=end, flush=True)
        elif due:
            print(self.line(now - self.started), flush=True)

    def bar(self) -> str:
        full = BAR_WIDTH * self.done // max(1, self.total)
        return "█" * full + "░" * (BAR_WIDTH - full)

    def line(self, elapsed_s: float) -> str:
        done, total = self.done, self.total
        if self.bytes_done:
            done, total = self.bytes_done, self.total_bytes
        left_s = elapsed_s / max(1, done) * (total - done)
        rates = [
            f"{value:.0f} {name} ({value / max(elapsed_s, 1e-9):.0f}/s)"
            for name, value in self.counts.items()
            if value
        ]
        if self.total_bytes >= SHOWN_BYTES:
            rates.insert(0, f"{self.bytes_done / 1e9:.1f} of {self.total_bytes / 1e9:.1f} GB")
        line = f"{self.done}/{self.total} {self.unit}  {'  '.join(rates)}  {left_s:.0f} s left"
        return f"{line}, last: {', '.join(self.last)}" if self.last else line


def time_in_words(minutes: float) -> str:
    """What somebody who waits wants to know: minutes, hours or days."""
    if minutes < 1:
        return "a minute"
    if minutes < 120:
        return f"{minutes:.0f} minutes"
    return f"{minutes / 60:.0f} hours" if minutes < 48 * 60 else f"{minutes / 60 / 24:.0f} days"
