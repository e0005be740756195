"""SIGTERM and Ctrl-C request a stop and are forwarded; they end nothing by themselves."""

import os
import signal
import threading
import time

import pytest

from pipelines.training import stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_requests_a_stop_and_is_forwarded(number: signal.Signals) -> None:
    before, forwarded = signal.getsignal(number), threading.Event()
    with stop.forwarding(forwarded.set):
        assert not stop.requested()
        os.kill(os.getpid(), number)
        assert forwarded.wait(10)
        assert stop.requested()
    assert signal.getsignal(number) == before


def test_a_second_interrupt_does_not_wait_for_what_is_saved() -> None:
    released, forwarded = threading.Event(), threading.Event()
    with stop.forwarding(forwarded.set):
        os.kill(os.getpid(), signal.SIGINT)
        assert forwarded.wait(10)
        os.kill(os.getpid(), signal.SIGTERM)  # as a shell may send both
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            stop.beside(lambda: released.wait(10))
        assert time.monotonic() - began < 5
        released.set()


def test_work_beside_the_main_thread_cannot_take_its_signals() -> None:
    """Ray Train handles Ctrl-C where it runs in the main thread."""
    threads = []
    stop.beside(lambda: threads.append(threading.current_thread()))
    assert threads != [threading.main_thread()]

    def fail() -> None:
        raise OSError("lost")

    with pytest.raises(OSError, match="lost"):
        stop.beside(fail)


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
