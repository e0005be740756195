"""What a job logs to its MLflow run.

If the tracking server stops answering, the job continues: what was to be logged is kept, and
sent once the server answers again.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities import Metric
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from numpy.typing import NDArray

from pipelines.io import checksums
from pipelines.tracking.server import client_of, is_away, without_password

CLOSE_S = 60.0
"""At the end, a job waits so long for what is still to be sent."""
RETRY_S = 30.0
"""Time between two attempts to reach a server that does not answer."""
ATTEMPTS = 3
"""After so many, what a server does not take although it answers otherwise is left out."""


class Run:
    """A run of one job. What it logs is sent by a thread of its own: no job waits for a server."""

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri, self.id = uri, run_id
        self._client = client_of(uri)
        self._waiting: deque[tuple[str, Callable[[], object]]] = deque()
        self._changed = threading.Condition()
        self._sender: threading.Thread | None = None
        self._closing = self._is_away = False
        self._failures = 0
        """Attempts in vain with what comes next."""
        self._refusals: set[str] = set()

    def send(self, what: str, action: Callable[[], object]) -> None:
        """Run an action that needs the server: soon, or once it answers again, in order."""
        with self._changed:
            self._waiting.append((what, action))
            if self._sender is None:
                self._sender = threading.Thread(target=self._send_all, daemon=True)
                self._sender.start()
            self._changed.notify_all()

    def send_and_wait(self, what: str, action: Callable[[], object]) -> None:
        """As `send`, and wait until it is done, however long it takes, while the server answers."""
        self.send(what, action)
        with self._changed:
            self._changed.wait_for(lambda: self._is_away or not self._waiting)

    def _send_all(self) -> None:
        while True:
            with self._changed:
                if self._is_away:
                    self._changed.wait_for(lambda: self._closing, RETRY_S)
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    return
                what, action = self._waiting[0]
            away = not self._sent(what, action)
            with self._changed:
                if not away:
                    self._waiting.popleft()
                elif self._closing:
                    return
                self._changed.notify_all()

    def _sent(self, what: str, action: Callable[[], object]) -> bool:
        """Whether the server took or refused an action; otherwise it did not answer."""
        name = f"the tracking server {without_password(self.uri)}"
        try:
            action()
        except Exception as error:
            self._failures += 1
            if is_away(error) and not self._is_refused_alone():
                if not self._is_away:
                    print(
                        f"{name} does not answer: the job goes on, and sends later what it would "
                        f"log ({what} first)",
                        flush=True,
                    )
                self._is_away = True
                return False
            self._failures, self._is_away = 0, False
            line = " ".join(str(error).split())
            if line not in self._refusals:
                self._refusals.add(line)
                print(f"{name} refuses {what}: the job goes on without it ({line})", flush=True)
            return True
        self._failures = 0
        if self._is_away:
            self._is_away = False
            print(f"{name} answers again: nothing was lost", flush=True)
        return True

    def _is_refused_alone(self) -> bool:
        """Whether the server answers, but for the action that fails again and again.

        So does one that cannot reach its own storage of artifacts.
        """
        if self._failures < ATTEMPTS and not self._closing:
            return False
        try:
            self._client.get_run(self.id)
        except Exception:
            return False
        return True

    def close(self) -> None:
        """Send what is waiting; print what could not be sent."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._sender:
            self._sender.join(CLOSE_S)
        with self._changed:
            counts = Counter(what for what, _ in self._waiting)
        if counts:
            missing = ", ".join(f"{n} x {what}" for what, n in counts.items())
            print(
                f"the tracking server {without_password(self.uri)} never got: {missing}", flush=True
            )
        self._closing, self._sender = False, None

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        now = int(time.time() * 1000)
        batch = [Metric(name, float(value), now, step) for name, value in values.items()]
        self.send("metrics", lambda: self._client.log_batch(self.id, metrics=batch))

    def progress(self, done: int, counts: Mapping[str, float]) -> None:
        """Log what is done so far, by which MLflow draws a curve."""
        self.metrics({f"progress/{name}": value for name, value in counts.items()}, step=done)

    def bytes(self, content: bytes, path: str) -> None:
        """Log a file as an artifact, at `path` (folder/name)."""
        folder, name = os.path.split(path)

        def log() -> None:
            with tempfile.TemporaryDirectory(prefix="vqvdm-") as temporary:
                local = Path(temporary, name)
                local.write_bytes(content)
                self._client.log_artifact(self.id, str(local), folder or None)

        self.send(path, log)

    def image(self, pixels_HWC: NDArray[np.uint8], key: str, step: int) -> None:
        """Log a picture of a step: MLflow shows those of one key with a slider."""
        self.send(
            f"the image {key}",
            lambda: self._client.log_image(self.id, pixels_HWC, key=key, step=step),
        )

    def json(self, value: Any, path: str) -> None:
        self.bytes(checksums.json_bytes(value), path)

    def tag(self, name: str, value: str) -> None:
        self.send(f"the tag {name}", lambda: self._client.set_tag(self.id, name, value))

    def output(self, fingerprint: str) -> None:
        """Tag the run with the fingerprint of its output, by which later jobs find the run."""
        self.tag("output", fingerprint)

    def finish(self, status: str) -> None:
        self.send("the end", lambda: self._client.set_terminated(self.id, status))
        self.close()

    @contextmanager
    def system_metrics(self) -> Iterator[None]:
        """Log the use of this machine's processors, memory and GPUs while the context is open."""
        monitor = SystemMetricsMonitor(self.id, resume_logging=True, tracking_uri=self.uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()
