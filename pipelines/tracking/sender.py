"""Sending to a server that may go away: in order, by a thread, and again until it answers.

No job waits for a server, unless it asks to.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable

from pipelines.tracking.server import is_away

RETRY_S = 30.0
"""Time between two attempts to reach a server that does not answer."""
HURRY_S = 1.0
"""The same while a job waits."""
CLOSE_S = 60.0
"""At the end, a job waits at most so long for each thing that is still to be sent."""
ATTEMPTS = 3
"""A job that waits gives up after so many attempts in vain."""


class Sender:
    """A queue of actions that need the server `name`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._waiting: deque[tuple[str, Callable[[], object]]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_away = False
        self._in_vain = self._hurried = 0
        self._refusals: set[str] = set()

    def send(self, what: str, action: Callable[[], object]) -> None:
        """Run an action soon, or once the server answers again."""
        with self._changed:
            self._waiting.append((what, action))
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_all, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait(self, limit_s: float | None = None) -> None:
        """Wait until all is sent, while the server answers; `limit_s` bounds each thing."""
        with self._changed:
            last = self._in_vain + ATTEMPTS
            self._hurried += 1
            self._changed.notify_all()
            while self._waiting and self._in_vain < last and self._changed.wait(limit_s):
                pass  # Something was sent, or tried.
            self._hurried -= 1

    def close(self) -> None:
        """Send what is waiting; print what could not be sent."""
        self.wait(CLOSE_S)
        with self._changed:
            missing = Counter(what for what, _ in self._waiting)
            self._waiting.clear()
            self._thread = None
            self._changed.notify_all()
        if missing:
            words = ", ".join(f"{n} x {what}" for what, n in missing.items())
            print(f"{self.name} never got: {words}", flush=True)

    def _send_all(self) -> None:
        def is_over() -> bool:
            return self._thread is not threading.current_thread()

        while True:
            with self._changed:
                if self._is_away:
                    self._changed.wait_for(lambda: self._hurried or is_over(), RETRY_S)
                    if self._hurried:
                        self._changed.wait_for(is_over, HURRY_S)
                self._changed.wait_for(lambda: self._waiting or is_over())
                if is_over():
                    return
                what, action = self._waiting[0]
            is_done = self._done(what, action)
            with self._changed:
                if is_over():
                    return
                if is_done:
                    self._waiting.popleft()
                else:
                    self._in_vain += 1
                self._changed.notify_all()

    def _done(self, what: str, action: Callable[[], object]) -> bool:
        """Whether the server took or refused an action; otherwise it did not answer."""
        try:
            action()
        except Exception as error:
            if is_away(error):
                if not self._is_away:
                    print(
                        f"{self.name} does not answer: the job goes on, and sends later what it "
                        f"would log ({what} first)",
                        flush=True,
                    )
                self._is_away = True
                return False
            self._is_away = False
            line = " ".join(str(error).split())
            if line not in self._refusals:
                self._refusals.add(line)
                print(
                    f"{self.name} refuses {what}: the job goes on without it ({line})", flush=True
                )
            return True
        if self._is_away:
            self._is_away = False
            print(f"{self.name} answers again: nothing was lost", flush=True)
        return True
