"""Requests to stop: after SIGTERM, or a request by the driver, the loop saves and ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_requested = threading.Event()


def install_handler() -> None:
    """Let SIGTERM request a stop of this process. Only the main thread may call this."""
    _requested.clear()
    signal.signal(signal.SIGTERM, lambda *_: _requested.set())


def request() -> None:
    """Request a stop of this process."""
    _requested.set()


def requested() -> bool:
    """Whether this process was asked to stop."""
    return _requested.is_set()


@contextmanager
def forwarding(forward: Callable[[], object]) -> Iterator[None]:
    """Within the context, SIGTERM requests a stop and calls `forward` in a thread."""

    def handle(*_: object) -> None:
        _requested.set()
        # A signal handler has to be short: slow work runs in another thread.
        threading.Thread(target=forward, daemon=True).start()

    _requested.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
