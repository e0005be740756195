"""SIGTERM is noted down and passed on, and ends nothing by itself."""

import os
import signal
import threading

from pipelines.training import stop


def test_sigterm_is_noted_down_and_told() -> None:
    before, told = signal.getsignal(signal.SIGTERM), threading.Event()
    with stop.telling(told.set):
        assert not stop.asked()
        os.kill(os.getpid(), signal.SIGTERM)
        assert told.wait(10)
        assert stop.asked()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_worker_listens() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        stop.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked()
        stop.listen()  # the next training of this process was told nothing
        assert not stop.asked()
        stop.ask()
        assert stop.asked()
    finally:
        signal.signal(signal.SIGTERM, before)
        stop._asked.clear()
