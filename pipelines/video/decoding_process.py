"""A process for work that may hang, crash or use too much memory: it can be killed and restarted.

The process is reused for the next video, since starting it takes longer than cutting a short
video; results come back through a pipe, one by one. It is spawned rather than forked: S3
connections do not survive a fork.
"""

from __future__ import annotations

import errno
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from pipelines.video.reasons import VideoError
from pipelines.video.remote import Read, Wanted, answered_by

REPOSITORY = Path(__file__).resolve().parents[2]
SERVE = "from pipelines.video.decoding_process import serve; serve"
START_TIMEOUT_S = 120.0
GRACE_S = 10.0
"""How long a process that closed its pipe may take to end."""

Work = Callable[[Any], Iterator[Any]]
"""A function at the top of a module, which the process imports."""


class DecodingProcess:
    """Runs generator functions in a process of its own, one at a time."""

    def __init__(self, max_memory_gb: float) -> None:
        self.max_memory_gb = max_memory_gb
        self._process: subprocess.Popen | None = None
        self._pipe: Connection | None = None

    def run(
        self, work: Work, argument: Any, deadline: Deadline, read: Read | None = None
    ) -> Iterator[Any]:
        """Yield what `work(argument)` yields; `VideoError` if it times out or crashes.

        `read` gives parts of a remote file; its errors are raised, and its time does not count.
        A process that failed, or whose results were not all consumed, is not used again.
        """
        sound = False
        try:
            pipe = self._started(work, argument)
            deadline.started = time.monotonic()
            while not isinstance(result := self._receive(pipe, deadline), _Done):
                if isinstance(result, Wanted):
                    assert read
                    pipe.send_bytes(_read(read, result, deadline))
                else:
                    yield result
            if result.failed:
                raise result.failed
            sound = True
        except _ReadError as failed:
            raise failed.error from failed.error.__cause__
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise VideoError("crashed", self._cause()) from error
        finally:
            if not sound:
                self.close()

    def close(self) -> None:
        """End the process; the next work starts another."""
        if self._process:
            self._process.kill()
            self._process.wait()
        if self._pipe:
            self._pipe.close()
        self._process = self._pipe = None

    def _started(self, work: Work, argument: Any) -> Connection:
        """Send the work and wait for its start, before which a new process imports modules."""
        try:
            pipe = self._pipe or self._start()
            pipe.send((work, argument))
            if pipe.poll(START_TIMEOUT_S):
                pipe.recv()
                return pipe
        except (EOFError, OSError):
            pass
        # This is not the fault of a video.
        raise RuntimeError(f"the decoding process does not start: {self._cause()}")

    def _start(self) -> Connection:
        self._pipe, theirs = Pipe()
        paths = filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])
        # One thread a task: Ray runs a task on every core already.
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"{SERVE}({theirs.fileno()})"],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ | threads | {"PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,
            )
        self._pipe.send(self.max_memory_gb)
        return self._pipe

    def _receive(self, pipe: Connection, deadline: Deadline) -> Any:
        if not pipe.poll(deadline.left_s):
            raise VideoError("timed_out", f"after {deadline.allowed_s:.0f} s")
        return pipe.recv()

    def _cause(self) -> str:
        """How the process ended, in words."""
        if self._process is None:
            return ""
        try:
            status = self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            return "the process does not answer"
        return signal.strsignal(-status) or "" if status < 0 else f"exit status {status}"


@dataclass
class Deadline:
    """When work has to be done; the consumer of its results may extend it."""

    allowed_s: float
    started: float = field(default_factory=time.monotonic)

    @property
    def left_s(self) -> float:
        return max(0.0, self.started + self.allowed_s - time.monotonic())


class _ReadError(Exception):
    """A remote file could not be read; the process knows nothing of it."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _read(read: Read, wanted: Wanted, deadline: Deadline) -> bytes:
    began = time.monotonic()
    try:
        return read(wanted.start, wanted.size)
    except Exception as error:
        raise _ReadError(error) from error
    finally:
        deadline.started += time.monotonic() - began


class _Done:
    """The last message of a piece of work."""

    def __init__(self, failed: VideoError | None = None) -> None:
        self.failed = failed


def _limit_memory(gigabytes: float) -> None:
    """Allow so much on top of what is mapped: modules built for GPUs take gigabytes of addresses,
    which are not memory."""
    size = _mapped() + int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _mapped() -> int:
    """Bytes of this process's addresses; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 0
    return pages * resource.getpagesize()


def _end_with(parent: int) -> None:
    """End this process soon after its parent, even during work."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def serve(file_descriptor: int) -> None:
    """The main loop of the process: receives work from a pipe until the pipe is closed."""
    pipe = Connection(file_descriptor)
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    gigabytes, limited = pipe.recv(), False

    def read(start: int, size: int) -> bytes:
        pipe.send(Wanted(start, size))
        return pipe.recv_bytes()

    while True:
        try:
            work, argument = pipe.recv()
        except EOFError:  # The parent ended, or closed the pipe.
            return
        if not limited:  # what the first work imported came before
            _limit_memory(gigabytes)
            limited = True
        pipe.send("started")
        failed = None
        try:
            with answered_by(read):
                for result in work(argument):
                    pipe.send(result)
        except MemoryError as error:
            failed = VideoError("out_of_memory", str(error) or "no more to be had")
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                return
            reason = "out_of_memory" if error.errno == errno.ENOMEM else "crashed"
            failed = VideoError(reason, str(error))
        except Exception as error:
            failed = VideoError("crashed", f"{type(error).__name__}: {error}")
        pipe.send(_Done(failed))
