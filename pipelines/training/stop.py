"""Requests to stop: after SIGTERM, Ctrl-C, or a request by the driver, the loop saves and ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
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
    """Within the context, SIGTERM and Ctrl-C request a stop and call `forward` in a thread.

    A second Ctrl-C is a `KeyboardInterrupt`: it does not wait.
    """

    def handle(number: int, _: object) -> None:
        if number == signal.SIGINT and _requested.is_set():
            raise KeyboardInterrupt
        _requested.set()
        # A signal handler has to be short: slow work runs in another thread.
        threading.Thread(target=forward, daemon=True).start()

    _requested.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, handle) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def beside(work: Callable[[], object]) -> None:
    """Do work in a thread, and wait for it: signals stay those of this context.

    In the main thread, Ray Train would take Ctrl-C for itself, and end without saving.
    """
    done: Future[object] = Future()

    def do() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    # A second Ctrl-C does not wait for it.
    threading.Thread(target=do, daemon=True).start()
    done.result()
