"""The process that can be killed: results in order, and a restart after any failure."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

from pipelines.video.decoding_process import Deadline, DecodingProcess
from pipelines.video.reasons import VideoError
from pipelines.video.remote import BLOCK, as_path, opened
from vqvdm.errors import UserError


@pytest.fixture(scope="module")
def process() -> Iterator[DecodingProcess]:
    process = DecodingProcess(max_memory_gb=1.0)
    yield process
    process.close()


def run(process: DecodingProcess, argument: object, allowed_s: float = 20.0) -> list:
    return list(process.run(eval_each, argument, Deadline(allowed_s)))


def eval_each(expressions: list[str]) -> Iterator[object]:
    names = {"os": os, "time": time, "signal": signal, "VideoError": VideoError}
    for expression in expressions:
        yield eval(expression, names)


def test_one_process_does_all_the_work(process: DecodingProcess) -> None:
    first = run(process, ["1 + 1", "os.getpid()", "b'x' * 10**7"])
    assert first[0] == 2 and len(first[2]) == 10**7
    assert first[1] != os.getpid()
    assert run(process, ["os.getpid()"]) == [first[1]]
    assert run(process, ["'PIL' in __import__('sys').modules"]) == [False]


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("time.sleep(99)", "timed_out"),
        ("signal.pthread_sigmask(0, [14]) or time.sleep(99)", "timed_out"),
        ("os.kill(os.getpid(), 11)", "crashed"),
        ("os._exit(3)", "crashed"),
        ("1 / 0", "crashed"),
        ("bytearray(2 * 2**30)", "out_of_memory"),
    ],
)
def test_a_failure_costs_one_piece_of_work(
    process: DecodingProcess, trouble: str, reason: str
) -> None:
    [before] = run(process, ["os.getpid()"])
    results = []
    with pytest.raises(VideoError) as caught:
        for result in process.run(eval_each, ["7", trouble], Deadline(1.0)):
            results.append(result)
    assert results == [7]
    assert caught.value.reason == reason
    assert caught.value.detail
    [after] = run(process, ["os.getpid()"])
    assert after != before
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)


def test_a_process_that_does_not_start_is_not_the_fault_of_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "known_here_alone", module := ModuleType("known_here_alone"))
    monkeypatch.setattr(module, "work", work := FunctionType(eval_each.__code__, {}), raising=False)
    work.__module__, work.__qualname__ = "known_here_alone", "work"
    with pytest.raises(RuntimeError, match="does not start"):
        list(DecodingProcess(max_memory_gb=1.0).run(work, ["1"], Deadline(20.0)))


def test_modules_may_map_more_addresses_than_a_video_may_take(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As PyTorch's libraries for GPUs do."""
    (tmp_path / "mapping_much.py").write_text(
        "import mmap\n"
        "mapped = [mmap.mmap(-1, 2**30, prot=mmap.PROT_READ) for _ in range(16)]\n"
        "def work(size):\n"
        "    yield len(bytearray(size))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    work = importlib.import_module("mapping_much").work
    process = DecodingProcess(max_memory_gb=1.0)
    assert list(process.run(work, 2**29, Deadline(20.0))) == [2**29]
    with pytest.raises(VideoError) as caught:
        list(process.run(work, 2**31, Deadline(20.0)))
    assert caught.value.reason == "out_of_memory"
    process.close()


def test_decoding_imports_no_torch() -> None:
    """It takes seconds to import, and a core decodes in a process of its own."""
    script = "import sys, pipelines.sharding.clips; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"


def test_unfinished_work_does_not_affect_the_next(process: DecodingProcess) -> None:
    for _ in process.run(eval_each, ["1", "2", "3"], Deadline(20.0)):
        break
    assert run(process, ["4"]) == [4]


def test_a_deadline_can_be_extended(process: DecodingProcess) -> None:
    deadline, results = Deadline(1.0), []
    for result in process.run(eval_each, ["0", "time.sleep(1.5)", "5"], deadline):
        deadline.allowed_s = 20.0
        results.append(result)
    assert results == [0, None, 5]


def read_each(starts: list[int]) -> Iterator[bytes]:
    """The ten bytes from each of these places of a remote file, opened anew each time."""
    for start in starts:
        with opened(as_path("a.bin", 2**22)) as file:
            file.seek(start)
            yield file.read(10)


def test_parts_of_a_remote_file_are_read_by_the_worker(process: DecodingProcess) -> None:
    data, asked = os.urandom(2**22), list[int]()

    def read(start: int, size: int) -> bytes:
        asked.append(start)
        time.sleep(1.0)  # It does not count.
        return data[start : start + size]

    places = [0, 2**22 - 10, 5, 2**21]
    deadline = Deadline(1.5)
    found = list(process.run(read_each, places, deadline, read))
    assert found == [data[place : place + 10] for place in places]
    assert asked == [0, 2**22 - BLOCK, 2**21]
    assert list(process.run(read_each, [0], Deadline(9.0), lambda start, size: bytes(size))) == [
        bytes(10)
    ]


@pytest.mark.parametrize(
    "error", [UserError("the store is away"), FileNotFoundError("gone"), EOFError("cut off")]
)
def test_an_error_of_reading_is_raised_as_it_is(process: DecodingProcess, error: Exception) -> None:
    cause = PermissionError("closed")

    def read(start: int, size: int) -> bytes:
        if start:
            raise error from cause
        return bytes(size)

    results = []
    with pytest.raises(type(error)) as caught:
        for result in process.run(read_each, [0, 2**20, 0], Deadline(20.0), read):
            results.append(result)
    assert results == [bytes(10)]
    assert caught.value is error and error.__cause__ is cause
    assert run(process, ["3"]) == [3]


def test_the_process_ends_with_its_parent() -> None:
    """Even during work, and even if its parent was killed."""
    script = (
        "import os\n"
        "from pipelines.video.decoding_process import DecodingProcess, Deadline\n"
        "from tests.unit.pipelines.video.test_decoding_process import eval_each\n"
        "process = DecodingProcess(1.0)\n"
        "for pid in process.run(eval_each, ['os.getpid()', 'time.sleep(99)'], Deadline(99)):\n"
        "    print(pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == -9, done.stderr
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(int(done.stdout), 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the process lives on")
