"""Messages between the driver and the workers of a training, wherever they run."""

from __future__ import annotations

from typing import Any


class Board:
    """The request to stop, the progress of a training, and what it logs where a worker cannot
    reach the tracking database. Ray runs it as an actor, so it imports little."""

    def __init__(self) -> None:
        self._stop = False
        self._begun = self._ended = ""
        self._progress: tuple[int, int, str] | None = None
        self._log: list[Any] = []

    def request_stop(self) -> None:
        self._stop = True

    def end_attempt(self, attempt: str) -> None:
        """Request a stop of the workers of one attempt only."""
        self._ended = attempt

    def stop_requested(self, attempt: str) -> bool:
        """Whether the workers of an attempt, which ask as soon as they run, are to stop."""
        self._begun = attempt
        return self._stop or self._ended == attempt

    def begun(self) -> str:
        """The attempt whose workers run."""
        return self._begun

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
