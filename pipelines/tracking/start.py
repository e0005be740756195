"""One MLflow run a job.

The driver starts the run; a training worker continues it, by its id. A job that is started
again after a kill finds its unfinished run. Lineage is by content: a run is tagged with the
fingerprint of its output, and the next job searches for the run that made its input.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pipelines.io import checksums, storage
from pipelines.io.other_settings import flat
from pipelines.io.workspace import Workspace
from pipelines.tracking.run import Run
from pipelines.tracking.server import client_of, experiment_of, explained, tracking_uri
from vqvdm.errors import UserError, is_stop

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput
    from mlflow.entities import Run as Record
    from mlflow.tracking import MlflowClient

REPOSITORY = Path(__file__).resolve().parents[2]
DIGEST_LENGTH = 36
"""Longest digest that MLflow accepts."""


class Settings(Protocol):
    """What a run records of a job's settings, which are a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def preset(self) -> str: ...
    @property
    def workspace(self) -> Workspace: ...
    def recipe(self) -> dict[str, Any]: ...


def _datasets(root: str, inputs: Mapping[str, str]) -> list[DatasetInput]:
    """The inputs of a job as MLflow's datasets: where each lies, and its digest."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return [
        DatasetInput(
            Dataset(
                what, digest[:DIGEST_LENGTH], "uri", json.dumps({"uri": storage.join(root, what)})
            ),
            [InputTag("mlflow.data.context", "input")],
        )
        for what, digest in inputs.items()
    ]


@contextmanager
def start_run(
    stage: str, config: Settings, inputs: Mapping[str, str] | None = None
) -> Iterator[Run]:
    """The run of a job; `inputs` maps the name of each input to its fingerprint."""
    run = _begin(tracking_uri(), stage, config, inputs or {})
    try:
        yield run
    except BaseException as error:
        run.finish("KILLED" if is_stop(error) else "FAILED")
        raise
    run.finish("FINISHED")


@contextmanager
def run_on_demand(
    stage: str, config: Settings, inputs: Mapping[str, str] | None = None
) -> Iterator[Callable[[], Run]]:
    """Yields what begins the run of a job, once: a job that finds its work done needs none."""
    tracking_uri()  # What is no address is refused before the work, not with its first result.
    with ExitStack() as stack:
        yield cache(lambda: stack.enter_context(start_run(stage, config, inputs)))


def _begin(uri: str, stage: str, config: Settings, inputs: Mapping[str, str]) -> Run:
    """The unfinished run of the same job, or a new one; `UserError` if no server answers."""
    try:
        return _found_or_new(uri, stage, config, inputs)
    except Exception as error:
        line = explained(uri, error)
        if line is None:
            raise
        raise line from error


def _found_or_new(uri: str, stage: str, config: Settings, inputs: Mapping[str, str]) -> Run:
    from mlflow.entities import Param, RunTag

    client = client_of(uri)
    # The root's id moves with it, and tells apart roots that two machines call the same.
    basis = [stage, config.workspace.id, config.recipe(), inputs, _published_as(config)]
    identity = checksums.fingerprint(basis)
    found = _named(client, identity) or _unfinished(client, uri, identity)
    if found:
        client.update_run(found.info.run_id, status="RUNNING")
    else:
        root = config.workspace.root.rstrip("/").rsplit("/", 1)[-1]
        name = getattr(config, "name", None) or getattr(config, "output", None)
        words = f"{stage} {name}" if name else stage
        found = client.create_run(experiment_of(client, uri), run_name=_text(f"{root}: {words}"))
    run, experiment, known = Run(uri, found.info.run_id), found.info.experiment_id, found.data
    begun = "identity" in known.tags
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
        tags=[RunTag(k, _text(v)) for k, v in tags.items()],
        params=[
            Param(name, _text(value))
            for name, value in flat(asdict(config)).items()
            if not begun and name not in known.params
        ],
    )
    if inputs and not begun:
        client.log_inputs(run.id, _datasets(config.workspace.root, inputs))
    run.json({"preset": config.preset} | asdict(config), "config.json")
    return run


def _published_as(config: Settings) -> list[Any]:
    """What says where a job publishes, and is no part of its recipe: two jobs that differ in it
    alone are two runs."""
    name = getattr(config, "name", None)
    output = getattr(config, "output", None) or getattr(config, "ldm", None)
    return [name, output, getattr(config, "sweep", None)]


def _unfinished(client: MlflowClient, uri: str, identity: str) -> Record | None:
    query = f"tags.identity = '{identity}' and attributes.status != 'FINISHED'"
    found = client.search_runs([experiment_of(client, uri)], query, max_results=1)
    return found[0] if found else None


def _named(client: MlflowClient, identity: str) -> Record | None:
    """The run that `MLFLOW_RUN_ID` names; `UserError` if it cannot be this job's."""
    from mlflow.exceptions import MlflowException

    id = os.environ.get("MLFLOW_RUN_ID")
    if not id:
        return None
    try:
        run = client.get_run(id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise UserError(f"MLFLOW_RUN_ID={id} is not in the tracking store: unset it") from error
    if run.info.lifecycle_stage == "deleted":
        raise UserError(
            f"the run MLFLOW_RUN_ID={id} was deleted: restore it, or unset the variable"
        )
    if run.data.tags.get("identity", identity) != identity:
        stage = run.data.tags.get("stage")
        raise UserError(
            f"MLFLOW_RUN_ID={id} is the run of another job ({stage}): unset it, then each job "
            "has a run of its own"
        )
    return run


def _text(value: str) -> str:
    """The name of a folder need not be UTF-8, which databases want."""
    return value.encode("utf-8", "backslashreplace").decode()


def _git_commit() -> str:
    """The commit of the code: by its history, or by the file that the container image has instead
    (infra/Dockerfile); empty where neither is there."""
    try:
        command = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except OSError:
        found = ""
    noted = REPOSITORY / "COMMIT"
    return found or (noted.read_text().strip() if noted.is_file() else "")
