"""Progress: a bar on a terminal; in a job's log, a line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

BAR_WIDTH = 20
Log = Callable[[int, Mapping[str, float]], None]
"""Takes what is done, and what was counted on the way."""


class Progress:
    """Counts work and reports progress: done, rates, time left."""

    def __init__(self, unit: str, total: int, every_s: float = 5.0, log: Log | None = None) -> None:
        """`log` is called every so many seconds, and at the end."""
        self.unit, self.total, self.every_s, self.log = unit, total, every_s, log
        self.done = 0
        self.counts: dict[str, float] = {}
        self.started = self._printed = time.monotonic()

    def add(self, done: int, **counts: float) -> None:
        """Report work done, and further counts by name."""
        self.done += done
        for name, value in counts.items():
            self.counts[name] = self.counts.get(name, 0) + value
        now = time.monotonic()
        last = self.done == self.total
        due = now - self._printed >= self.every_s or last
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
        left_s = elapsed_s / max(1, self.done) * (self.total - self.done)
        rates = [
            f"{value:.0f} {name} ({value / max(elapsed_s, 1e-9):.0f}/s)"
            for name, value in self.counts.items()
            if value
        ]
        return f"{self.done}/{self.total} {self.unit}  {'  '.join(rates)}  {left_s:.0f} s left"
