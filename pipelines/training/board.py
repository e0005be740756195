"""Messages between the driver and the workers of a training, wherever they run."""

from __future__ import annotations

from typing import Any


class Board:
    """The request to stop, the progress of a training, and what it logs where a worker cannot
    reach the tracking database. Ray runs it as an actor, so it imports little."""

    def __init__(self) -> None:
        self._stop = False
        self._progress: tuple[int, int, str] | None = None
        self._log: list[Any] = []

    def request_stop(self) -> None:
        self._stop = True

    def stop_requested(self) -> bool:
        return self._stop

    def report(self, step: int, steps: int, words: str) -> None:
        """Report the step, the number of steps, and a summary in words."""
        self._progress = step, steps, words

    def progress(self) -> tuple[int, int, str] | None:
        """The last report."""
        return self._progress

    def log(self, message: Any) -> None:
        """Keep what a worker logs for the driver."""
        self._log.append(message)

    def take_log(self) -> list[Any]:
        """What was logged since the last call."""
        taken, self._log = self._log, []
        return taken
