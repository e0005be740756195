"""What driver and workers of a training tell each other: to stop, the progress, the log.

They do so by the board, an actor.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import get_preemption_info

from pipelines.io.progress import Progress
from pipelines.tracking.relay import RelayedRun, is_of_one_machine, replay
from pipelines.tracking.run import Run
from pipelines.training import stop

POLL_S = 1.0
"""Time between two polls: by workers for a request to stop, by the driver for progress."""


def poll_for_stop(board: Any, attempt: str) -> None:
    """Request a stop of this worker once the driver is asked to stop, or ends the attempt."""
    while not stop.requested():
        if _ask(partial(board.stop_requested.remote, attempt)):
            stop.request()
        time.sleep(POLL_S)


def has_begun(board: Any, attempt: str) -> bool:
    """Whether the workers of an attempt run."""
    return _ask(board.begun.remote) == attempt


def poll_for_drain(verbose: bool) -> None:
    """Request a stop of this worker once Ray is about to take away a worker's node.

    Ray Train lets the workers meet at each call, so this has a thread of its own.
    """
    while not stop.requested():
        try:
            info = get_preemption_info()
        except RayError:
            return  # The attempt ends.
        if info:
            if verbose:
                nodes = ", ".join(node[:8] for node in info.preempted_node_ids)
                print(f"the cluster takes node {nodes} away: saving first", flush=True)
            stop.request()
        time.sleep(POLL_S)


@contextmanager
def drawing_bar(board: Any) -> Iterator[None]:
    """Within the context, draw the progress that the first worker reports."""

    def draw() -> None:
        if reported := _ask(board.progress.remote):
            step, steps, words = reported
            progress = Progress("steps", steps)
            progress.done = step
            print(f"\r{progress.bar()} {step}/{steps}  {words}\x1b[K", end="", flush=True)

    try:
        with _regularly(draw):
            yield
    finally:
        print(flush=True)


def run_of(board: Any, uri: str, run_id: str, driver_node: str) -> Run:
    """A run, for a worker: by way of the driver if its database is on the driver's machine."""
    if ray.get_runtime_context().get_node_id() == driver_node or not is_of_one_machine(uri):
        return Run(uri, run_id)
    # An actor handles the calls of a process in order: an answer comes after all before it.
    return RelayedRun(board.log.remote, lambda: _ask(board.progress.remote))


@contextmanager
def relaying(board: Any, uri: str, run_id: str) -> Iterator[None]:
    """Within the context, the driver logs what workers pass on."""
    if not is_of_one_machine(uri):
        yield
        return
    with closing(Run(uri, run_id)) as run:

        def log() -> None:
            replay(run, _ask(board.take_log.remote) or [])

        try:
            with _regularly(log):
                yield
        finally:
            log()


@contextmanager
def _regularly(action: Callable[[], object]) -> Iterator[None]:
    """Within the context, call an action in a thread."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(POLL_S):
            action()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _ask(call: Callable[[], Any]) -> Any:
    """The answer of the board to a call; None while it moves to another node."""
    try:
        return ray.get(call(), timeout=10 * POLL_S)
    except RayError:
        return None
