"""Being told to stop: a process that gets SIGTERM notes it down, and the loop saves and ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_asked = threading.Event()


def listen() -> None:
    """From now on, SIGTERM is noted down in this process. For its main thread only."""
    _asked.clear()
    signal.signal(signal.SIGTERM, lambda *_: _asked.set())


def ask() -> None:
    """Note down that this process shall stop."""
    _asked.set()


def asked() -> bool:
    """Whether this process was told to stop."""
    return _asked.is_set()


@contextmanager
def telling(tell: Callable[[], object]) -> Iterator[None]:
    """While this lasts, SIGTERM is noted down, and others are told of it."""

    def handle(*_: object) -> None:
        _asked.set()
        # A handler interrupts whatever goes on: what takes time is for another thread.
        threading.Thread(target=tell, daemon=True).start()

    _asked.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
