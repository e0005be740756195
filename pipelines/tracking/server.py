"""The tracking server or database: its address, its experiment, and what its errors mean."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import requests

from vqvdm.errors import UserError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT = "vqvdm"
REPOSITORY = Path(__file__).resolve().parents[2]
CLIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""By default the client tries eight times, up to two minutes each, which would delay a job; and it
draws bars between the job's own lines."""
PASSING = (
    "INTERNAL_ERROR",
    "TEMPORARILY_UNAVAILABLE",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
)
"""Codes of errors that pass."""
SQLITE = "sqlite:///"
MANAGED = ("databricks", "uc")
"""How addresses of managed servers begin, which need not be URIs."""


def _home() -> Path:
    """Where runs are kept by default: in the repository, unless it is Ray's temporary copy."""
    if "working_dir_files" in str(REPOSITORY):
        return Path(os.path.expanduser("~"), ".vqvdm")
    return REPOSITORY / "runs"


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, by default a SQLite file in the repository's `runs/`.

    The path of a SQLite file is made absolute: workers run in other folders. `UserError` for what
    is no address, and for a folder, in which MLflow 3 keeps no runs.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{_home() / 'mlflow.db'}"
    if uri.startswith(SQLITE):
        return SQLITE + os.path.abspath(uri.removeprefix(SQLITE))
    if re.fullmatch(r"[\w.-]+:\d+(/.*)?", uri):
        raise UserError(f"MLFLOW_TRACKING_URI={uri} is no address: pass http://{uri}")
    is_path = "://" not in uri and uri.split(":")[0].split("-")[0] not in MANAGED
    if is_path or uri.startswith("file:"):
        folder = os.path.abspath(uri.removeprefix("file://").removeprefix("file:"))
        raise UserError(
            f"MLFLOW_TRACKING_URI={uri} is a folder, and MLflow 3 keeps runs in databases or "
            f"behind servers: pass {SQLITE}{folder}/mlflow.db or http://HOST:5000"
        )
    return uri


def experiment_name() -> str:
    """`MLFLOW_EXPERIMENT_NAME`, by default `vqvdm`."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def without_password(uri: str) -> str:
    """A URI as it may be printed."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:…@", uri)


def client_of(uri: str) -> MlflowClient:
    """A client that does not wait long, and tells of no success; `UserError` where no database can
    be made."""
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    for name, value in CLIENT.items():
        os.environ.setdefault(name, value)
    if uri.startswith(SQLITE):
        folder = Path(uri.removeprefix(SQLITE)).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"runs cannot be kept in {folder} ({error.strerror}): set MLFLOW_TRACKING_URI "
                f"to {SQLITE}FOLDER/mlflow.db or http://HOST:5000"
            ) from error
    return MlflowClient(uri)


def experiment_of(client: MlflowClient, uri: str) -> str:
    """The id of the experiment, which is made if there is none; `UserError` if it was deleted."""
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
    if uri.startswith(SQLITE):
        location = (Path(uri.removeprefix(SQLITE)).parent / "mlartifacts").as_uri()
    # Of servers whose pages have no switch between views, the one for training is opened.
    tags = {"mlflow.experimentKind": "custom_model_development"}
    return client.create_experiment(name, artifact_location=location, tags=tags)


def is_refused(error: Exception) -> bool:
    """Whether a server wants other credentials."""
    from mlflow.exceptions import MlflowException

    codes = ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")
    refused = isinstance(error, MlflowException) and error.error_code in codes
    return refused or bool(re.search(r"error code 40[13]\b|code: 40[13]\b", str(error)))


def is_away(error: Exception) -> bool:
    """Whether a server or database did not answer; otherwise it refused what it was sent.

    The error of a file, such as an artifact folder that this machine may not write, is no
    absence: to wait would not mend it.
    """
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code in PASSING and not is_refused(error)
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code == 429 or error.response.status_code >= 500
    lost = (ConnectionError, TimeoutError, requests.ConnectionError, requests.Timeout)
    return isinstance(error, lost)


def explained(uri: str, error: Exception) -> UserError | None:
    """In one line, why a job's run could not begin, if the user can mend it."""
    name = without_password(uri)
    if "database schema" in str(error):
        return UserError(
            f"the MLflow database {name} is of another version of MLflow: back it up and run "
            f"`mlflow db upgrade {name}`, or set MLFLOW_TRACKING_URI to another one"
        )
    if is_refused(error):
        return UserError(
            f"the tracking server {name} refuses access: check MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if is_away(error):
        return UserError(
            f"the tracking server {name} does not answer: start it, or unset "
            f"MLFLOW_TRACKING_URI to keep runs in a file ({error})"
        )
    return None
