"""What a job logs to its MLflow run.

If the tracking server stops answering, the job continues: what was to be logged is kept, and
sent once the server answers again.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.io import checksums
from pipelines.tracking.sender import Sender
from pipelines.tracking.server import client_of, without_password


class Run:
    """A run of one job. Figures and artifacts are sent apart: their store may fail alone."""

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri, self.id = uri, run_id
        self._client = client_of(uri)
        server = f"the tracking server {without_password(uri)}"
        self._figures = Sender(server)
        self._artifacts = Sender(f"the store of artifacts of {server}")

    def close(self) -> None:
        """Send what is waiting; print what could not be sent."""
        self._artifacts.close()
        self._figures.close()

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [Metric(name, float(value), now, step) for name, value in values.items()]
        self._figures.send("metrics", lambda: self._client.log_batch(self.id, metrics=batch))

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

        self._artifacts.send(path, log)

    def image(self, pixels_HWC: NDArray[np.uint8], key: str, step: int) -> None:
        """Log a picture of a step: MLflow shows those of one key with a slider."""
        self._artifacts.send(
            f"the image {key}",
            lambda: self._client.log_image(self.id, pixels_HWC, key=key, step=step),
        )

    def json(self, value: Any, path: str) -> None:
        self.bytes(checksums.json_bytes(value), path)

    def upload(self, what: str, action: Callable[[], object]) -> None:
        """Run an action that sends much, and wait for it while the server answers."""
        self._artifacts.send(what, action)
        self._artifacts.wait()

    def tag(self, name: str, value: str) -> None:
        self._figures.send(f"the tag {name}", lambda: self._client.set_tag(self.id, name, value))

    def output(self, fingerprint: str) -> None:
        """Tag the run with the fingerprint of its output, by which later jobs find the run."""
        self.tag("output", fingerprint)

    def state(self, status: str) -> None:
        """FINISHED, FAILED, or KILLED."""
        self._figures.send("the end", lambda: self._client.set_terminated(self.id, status))

    def finish(self, status: str) -> None:
        self._artifacts.close()
        self.state(status)
        self._figures.close()

    @contextmanager
    def system_metrics(self) -> Iterator[None]:
        """Log the use of this machine's processors, memory and GPUs while the context is open."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(self.id, resume_logging=True, tracking_uri=self.uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()
