"""A run whose database only the driver's machine can open: workers elsewhere pass on what they log.

The default, a SQLite file, is such a database, and so is a server that listens to its own machine
alone.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from pipelines.tracking.run import Run
from pipelines.tracking.server import SQLITE

Message = tuple[str, tuple[Any, ...]]
"""The name of a method of `Run`, and its arguments."""


def is_of_one_machine(uri: str) -> bool:
    """Whether other machines than the driver's cannot reach, or not share, a tracking address."""
    if uri.startswith(SQLITE):
        return True
    host = urlsplit(uri).hostname or ""
    return host in ("localhost", "::1") or bool(re.fullmatch(r"127(\.\d+){3}", host))


class RelayedRun(Run):
    """A run that passes on what is logged. The use of this machine is not logged."""

    def __init__(self, send: Callable[[Message], object], wait: Callable[[], object]) -> None:
        """`send` takes a message and does not wait; `wait` waits until all have arrived."""
        self._send, self._wait = send, wait

    def close(self) -> None:
        self._wait()

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        self._send(("metrics", (dict(values), step)))

    def bytes(self, content: builtins.bytes, path: str) -> None:
        self._send(("bytes", (content, path)))

    def image(self, pixels_HWC: NDArray[np.uint8], key: str, step: int) -> None:
        self._send(("image", (pixels_HWC, key, step)))

    @contextmanager
    def system_metrics(self) -> Iterator[None]:
        yield


def replay(run: Run, messages: Iterable[Message]) -> None:
    """Log what was passed on."""
    for name, arguments in messages:
        getattr(run, name)(*arguments)
