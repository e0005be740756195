"""SIGTERM requests a stop and is forwarded; it ends nothing by itself."""

import os
import signal
import threading

from pipelines.training import stop


def test_sigterm_requests_a_stop_and_is_forwarded() -> None:
    before, forwarded = signal.getsignal(signal.SIGTERM), threading.Event()
    with stop.forwarding(forwarded.set):
        assert not stop.requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert forwarded.wait(10)
        assert stop.requested()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_worker_handles_sigterm() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        stop.install_handler()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested()
        stop.install_handler()  # the next training of this process starts without a request
        assert not stop.requested()
        stop.request()
        assert stop.requested()
    finally:
        signal.signal(signal.SIGTERM, before)
        stop._requested.clear()
