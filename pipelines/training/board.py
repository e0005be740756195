"""What the driver and the workers of a training tell each other, wherever they run."""

from __future__ import annotations


class Board:
    """Whether to stop, and how far the training is. Ray runs it as an actor; it imports little."""

    def __init__(self) -> None:
        self._stop = False
        self._progress: tuple[int, int, str] | None = None

    def request_stop(self) -> None:
        self._stop = True

    def stop_requested(self) -> bool:
        return self._stop

    def report(self, step: int, steps: int, words: str) -> None:
        """The step, how many there are, and how it goes in words."""
        self._progress = step, steps, words

    def progress(self) -> tuple[int, int, str] | None:
        """The last report."""
        return self._progress
