"""MLflow: one run a job.

The driver starts the run; a training worker continues it, by its id. A job that is started
again after a kill finds its unfinished run. Lineage is by content: a run is tagged with the
fingerprint of its output, and the next job searches for the run that made its input.

If the tracking server stops answering, the job continues: what was to be logged is kept, and
sent once the server answers again.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient
from numpy.typing import NDArray

from pipelines.io import checksums, storage
from pipelines.io.workspace import Workspace
from vqvdm.errors import UserError

EXPERIMENT = "vqvdm"
REPOSITORY = Path(__file__).resolve().parents[2]
DIGEST_LENGTH = 36
"""Longest digest that MLflow accepts."""
CLOSE_S = 60.0
"""At the end, a job waits so long for what is still to be sent."""
RETRY_S = 30.0
"""Time between two attempts to reach a server that does not answer."""
CLIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""By default the client tries eight times, up to two minutes each, which would delay a job; and it
draws bars between the job's own lines."""


def _home() -> Path:
    """Where runs are kept by default: in the repository, unless it is Ray's temporary copy."""
    if "working_dir_files" in str(REPOSITORY):
        return Path.home() / ".vqvdm"
    return REPOSITORY / "runs"


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, by default a SQLite file in the repository's `runs/`.

    `UserError` for a folder, in which MLflow 3 keeps no runs.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_home() / 'mlflow.db'}"
    if "://" not in uri or uri.startswith("file:"):
        folder = os.path.abspath(uri.removeprefix("file://").removeprefix("file:"))
        raise UserError(
            f"MLFLOW_TRACKING_URI={uri} is a folder, and MLflow 3 keeps runs in databases or "
            f"behind servers: pass sqlite:///{folder}/mlflow.db or http://HOST:5000"
        )
    return uri


def experiment_name() -> str:
    """`MLFLOW_EXPERIMENT_NAME`, by default `vqvdm`."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def without_password(uri: str) -> str:
    """A URI as it may be printed."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:…@", uri)


def _client(uri: str) -> MlflowClient:
    for name, value in CLIENT.items():
        os.environ.setdefault(name, value)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(uri)


def _experiment(client: MlflowClient, uri: str) -> str:
    name = experiment_name()
    found = client.get_experiment_by_name(name)
    if found and found.lifecycle_stage == "deleted":
        raise UserError(
            f"the MLflow experiment {name!r} was deleted: restore it with `mlflow experiments "
            f"restore -x {found.experiment_id}`, or set MLFLOW_EXPERIMENT_NAME to another name"
        )
    if found:
        return found.experiment_id
    # Without a server, artifacts go beside the database, wherever a job was started.
    location = None
    if uri.startswith("sqlite:///"):
        location = (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts").as_uri()
    # The kind decides which of its views MLflow opens: the one for training, not for chat models.
    tags = {"mlflow.experimentKind": "custom_model_development"}
    return client.create_experiment(name, artifact_location=location, tags=tags)


class Settings(Protocol):
    """What a run records of a job's settings, which are a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def preset(self) -> str: ...
    @property
    def workspace(self) -> Workspace: ...
    def recipe(self) -> dict[str, Any]: ...


def _is_refused(error: Exception) -> bool:
    """Whether a server wants other credentials."""
    codes = ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")
    refused = isinstance(error, MlflowException) and error.error_code in codes
    return refused or bool(re.search(r"error code 40[13]\b|code: 40[13]\b", str(error)))


def _is_away(error: Exception) -> bool:
    """Whether a server or database did not answer; otherwise it refused what it was sent."""
    if isinstance(error, MlflowException):
        return error.error_code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE")
    return isinstance(error, OSError)


class Run:
    """A run of one job. What it logs is sent by a thread of its own: no job waits for a server."""

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri, self.id = uri, run_id
        self._client = _client(uri)
        self._waiting: deque[tuple[str, Callable[[], object]]] = deque()
        self._changed = threading.Condition()
        self._sender: threading.Thread | None = None
        self._closing = self._is_away = False
        self._refusals: set[str] = set()

    def send(self, what: str, action: Callable[[], object]) -> None:
        """Run an action that needs the server: soon, or once it answers again, in order."""
        with self._changed:
            self._waiting.append((what, action))
            if self._sender is None:
                self._sender = threading.Thread(target=self._send_all, daemon=True)
                self._sender.start()
            self._changed.notify_all()

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
            if _is_away(error) and not _is_refused(error):
                if not self._is_away:
                    print(
                        f"{name} does not answer: the job goes on, and sends later what it would "
                        f"log ({what} first)",
                        flush=True,
                    )
                self._is_away = True
                return False
            line = " ".join(str(error).split())
            if line not in self._refusals:
                self._refusals.add(line)
                print(f"{name} refuses {what}: the job goes on without it ({line})", flush=True)
            return True
        if self._is_away:
            self._is_away = False
            print(f"{name} answers again: nothing was lost", flush=True)
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


def _datasets(root: str, inputs: Mapping[str, str]) -> list[DatasetInput]:
    """The inputs of a job as MLflow's datasets: where each lies, and its digest."""
    return [
        DatasetInput(
            Dataset(
                what, digest[:DIGEST_LENGTH], "uri", json.dumps({"uri": storage.join(root, what)})
            ),
            [InputTag("mlflow.data.context", "input")],
        )
        for what, digest in inputs.items()
    ]


def _away_at_start(uri: str, error: Exception) -> UserError:
    return UserError(
        f"the tracking server {without_password(uri)} does not answer: start it, or unset "
        f"MLFLOW_TRACKING_URI to keep runs in a file ({error})"
    )


@contextmanager
def start_run(
    stage: str, config: Settings, inputs: Mapping[str, str] | None = None
) -> Iterator[Run]:
    """The run of a job; `inputs` maps the name of each input to its fingerprint."""
    run = _begin(tracking_uri(), stage, config, inputs or {})
    try:
        yield run
    except BaseException:
        run.finish("FAILED")
        raise
    run.finish("FINISHED")


@contextmanager
def run_on_demand(
    stage: str, config: Settings, inputs: Mapping[str, str] | None = None
) -> Iterator[Callable[[], Run]]:
    """Yields what begins the run of a job, once: a job that finds its work done needs none."""
    with ExitStack() as stack:
        yield cache(lambda: stack.enter_context(start_run(stage, config, inputs)))


def _begin(uri: str, stage: str, config: Settings, inputs: Mapping[str, str]) -> Run:
    """The unfinished run of the same job, or a new one; `UserError` if no server answers."""
    try:
        return _found_or_new(uri, stage, config, inputs)
    except Exception as error:
        if "database schema" in str(error):
            raise UserError(
                f"the MLflow database {without_password(uri)} is of another version of MLflow: "
                f"back it up and run `mlflow db upgrade {without_password(uri)}`, or set "
                f"MLFLOW_TRACKING_URI to another one"
            ) from error
        if _is_refused(error):
            raise UserError(
                f"the tracking server {without_password(uri)} refuses access: check "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            ) from error
        if _is_away(error):
            raise _away_at_start(uri, error) from error
        raise


def _found_or_new(uri: str, stage: str, config: Settings, inputs: Mapping[str, str]) -> Run:
    client = _client(uri)
    experiment = _experiment(client, uri)
    identity = checksums.fingerprint([stage, config.workspace.root, config.recipe(), inputs])
    unfinished = client.search_runs(
        [experiment],
        f"tags.identity = '{identity}' and attributes.status != 'FINISHED'",
        max_results=1,
    )
    if unfinished:
        run = Run(uri, unfinished[0].info.run_id)
        client.update_run(run.id, status="RUNNING")
    else:
        root = config.workspace.root.rstrip("/").rsplit("/", 1)[-1]
        name = getattr(config, "name", None) or getattr(config, "output", None)
        words = f"{stage} {name}" if name else stage
        started = client.create_run(experiment, run_name=f"{root}: {words}")
        run = Run(uri, started.info.run_id)
    tags = {
        "stage": stage,
        "preset": config.preset,
        "root": config.workspace.root,
        "identity": identity,
        "git_commit": _git_commit(),
    }
    for what, fingerprint in inputs.items():
        tags[f"input.{what}"] = fingerprint
        makers = client.search_runs([experiment], f"tags.output = '{fingerprint}'", max_results=1)
        if makers:
            tags[f"input.{what}.run"] = makers[0].info.run_id
    client.log_batch(
        run.id,
        tags=[RunTag(k, v) for k, v in tags.items()],
        params=[] if unfinished else [Param(k, v) for k, v in _flat(asdict(config)).items()],
    )
    if inputs and not unfinished:
        client.log_inputs(run.id, _datasets(config.workspace.root, inputs))
    run.json({"preset": config.preset} | asdict(config), "config.json")
    return run


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            flat |= _flat(item, f"{prefix}{name}.")
        else:
            flat[prefix + name] = item if isinstance(item, str) else json.dumps(item)
    return flat


def _git_commit() -> str:
    try:
        command = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except OSError:
        return ""
