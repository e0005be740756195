"""A number of a process, noted earlier, may stand for another one."""

import multiprocessing
import os
import subprocess
import time

from pipelines.io.processes import born, machine


def _told(queue: multiprocessing.Queue) -> None:
    queue.put((machine(), born(os.getpid()), born(os.getppid())))


def test_every_process_of_a_machine_sees_the_same() -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_told, args=(queue,))
    child.start()
    of_machine, own, parents = queue.get(timeout=60)
    assert (of_machine, parents) == (machine(), born(os.getpid()))
    assert own is not None and own != parents
    child.join(60)
    assert born(child.pid or 0) is None


def test_what_has_ended_was_not_born_though_nobody_waited_for_it() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        first = born(process.pid)
        assert first is not None
        process.kill()
        deadline = time.monotonic() + 30
        while born(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert born(process.pid) is None
