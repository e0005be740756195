"""MLflow: one run a job. The only place that knows it.

The driver starts the run; a training worker goes on in it with `attach`. A job that is started
again after a kill finds its unfinished run. Lineage goes by content: a run is tagged with the
fingerprint of its output, and the next job looks up who made its input.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient
from mlflow.utils.time import get_current_time_millis

from pipelines.io import storage
from pipelines.io.workspace import Workspace

EXPERIMENT = "vqvdm"
REPOSITORY = Path(__file__).resolve().parent.parent


def _home() -> Path:
    """Where runs are kept by default: in the repository, unless it is Ray's temporary copy."""
    if "working_dir_files" in str(REPOSITORY):
        return Path.home() / ".vqvdm"
    return REPOSITORY / "runs"


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, by default a SQLite file in the repository's `runs/`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_home() / 'mlflow.db'}"


def _client(uri: str) -> MlflowClient:
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(uri)


def _experiment(client: MlflowClient, uri: str) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found:
        return found.experiment_id
    # Without a server, artifacts go beside the database, wherever a job was started.
    location = None
    if uri.startswith("sqlite:///"):
        location = (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts").as_uri()
    return client.create_experiment(EXPERIMENT, artifact_location=location)


class Settings(Protocol):
    """What a run records of a job's settings, a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def preset(self) -> str: ...
    @property
    def workspace(self) -> Workspace: ...
    def recipe(self) -> dict[str, Any]: ...


class Run:
    """A run of one job."""

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri, self.id = uri, run_id
        self._client = _client(uri)

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        now = get_current_time_millis()
        batch = [Metric(name, float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self.id, metrics=batch)

    def bytes(self, content: bytes, path: str) -> None:
        """Keep a file among the artifacts, at `path` (folder/name)."""
        folder, name = os.path.split(path)
        with tempfile.TemporaryDirectory(prefix="vqvdm-") as temporary:
            local = Path(temporary, name)
            local.write_bytes(content)
            self._client.log_artifact(self.id, str(local), folder or None)

    def json(self, value: Any, path: str) -> None:
        self.bytes(storage.json_bytes(value), path)

    def tag(self, name: str, value: str) -> None:
        self._client.set_tag(self.id, name, value)

    def output(self, fingerprint: str) -> None:
        """Say what the job made, so that the jobs that use it can name this run."""
        self.tag("output", fingerprint)

    def finish(self, status: str) -> None:
        self._client.set_terminated(self.id, status)


@contextmanager
def run(stage: str, config: Settings, inputs: Mapping[str, str] | None = None) -> Iterator[Run]:
    """The run of a job; `inputs` maps what it reads to the fingerprint of that."""
    uri = tracking_uri()
    client = _client(uri)
    experiment = _experiment(client, uri)
    identity = storage.fingerprint([stage, config.workspace.root, config.recipe(), inputs])
    unfinished = client.search_runs(
        [experiment],
        f"tags.identity = '{identity}' and attributes.status != 'FINISHED'",
        max_results=1,
    )
    if unfinished:
        mine = Run(uri, unfinished[0].info.run_id)
        client.update_run(mine.id, status="RUNNING")
    else:
        name = getattr(config, "name", None) or getattr(config, "output", None)
        started = client.create_run(experiment, run_name=f"{stage}-{name}" if name else stage)
        mine = Run(uri, started.info.run_id)
    tags = {
        "stage": stage,
        "preset": config.preset,
        "root": config.workspace.root,
        "identity": identity,
        "git_commit": _git_commit(),
    }
    for what, fingerprint in (inputs or {}).items():
        tags[f"input.{what}"] = fingerprint
        makers = client.search_runs([experiment], f"tags.output = '{fingerprint}'", max_results=1)
        if makers:
            tags[f"input.{what}.run"] = makers[0].info.run_id
    client.log_batch(
        mine.id,
        tags=[RunTag(k, v) for k, v in tags.items()],
        params=[] if unfinished else [Param(k, v) for k, v in _flat(asdict(config)).items()],
    )
    mine.json({"preset": config.preset} | asdict(config), "config.json")
    try:
        yield mine
    except BaseException:
        mine.finish("FAILED")
        raise
    mine.finish("FINISHED")


def attach(uri: str, run_id: str) -> Run:
    """Go on with a run in another process."""
    return Run(uri, run_id)


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
