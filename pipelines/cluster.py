"""The scale: how a job finds its Ray cluster, and which resources this machine has."""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vqvdm.errors import UserError

FORWARDED = ("AWS_", "MLFLOW_", "VQVDM_")


def local_cpus() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ray_options(own: bool = False) -> dict[str, Any]:
    """Arguments of `ray.init`: join the running cluster, or start one in this process.

    A cluster is started with `own`, or if none answers. Workers get the storage and tracking
    variables of the driver, unless the job was submitted: then they came with the job or the
    cluster.
    """
    # Ray Data keeps the reservation of a killed driver for three minutes, and the same command
    # would wait for it. A running driver renews its reservation every ten seconds.
    os.environ.setdefault("RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S", "30")
    options: dict[str, Any] = {
        "ignore_reinit_error": True,
        "logging_level": logging.WARNING,
        "log_to_driver": True,
    }
    named = os.environ.get("RAY_ADDRESS")
    own = own or named == "local" or (named is None and not noted_cluster_answers())
    if own:
        options["address"] = "local"
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        variables = {k: v for k, v in os.environ.items() if k.startswith(FORWARDED)}
        # Ray Train would print every line of a worker twice.
        variables["RAY_TRAIN_ENABLE_PRINT_PATCH"] = "0"
        if own:
            variables["RAY_ADDRESS"] = _address_of_own()
        options["runtime_env"] = {"env_vars": variables}
    return options


def _address_of_own() -> str:
    """The address of the Ray that this process starts next.

    Processes that Ray runs beside a training search for their cluster: at `RAY_ADDRESS`, else at
    the address in the note, which another Ray on this machine may have written. The other Ray
    would report the training as dead, and its workers would be ended.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    os.environ["RAY_GCS_SERVER_PORT"] = str(port)  # `ray.init` has no argument for it
    return f"127.0.0.1:{port}"


def cluster_note() -> Path:
    """The file in which Ray records the cluster it started here, as the last step of the start."""
    # As in Ray, which reads TMPDIR on Linux only.
    temporary = tempfile.gettempdir() if sys.platform == "linux" else "/tmp"
    return Path(os.environ.get("RAY_TMPDIR", temporary), "ray", "ray_current_cluster")


def noted_cluster_answers(timeout_s: float = 2.0) -> bool:
    """Whether the cluster in the note answers: Ray would wait minutes for one that was killed."""
    note = cluster_note()
    host, _, port = (note.read_text().strip() if note.is_file() else "").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout_s).close()
    except (OSError, ValueError):
        return False
    return True


def set_up_ray_data(context: Any) -> None:
    """Keep Ray Data off the screen: an error is one line there, and Ray's log has the rest.

    `context` is Ray Data's own. Creating it creates the log handlers that are set here.
    """
    context.enable_progress_bars = False
    # Errors of tasks come back unwrapped. A wrapped error keeps only its text.
    context.raise_original_map_exception = True
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)


def resolve_switch(switch: str, auto: bool) -> bool:
    """The value of a switch: `auto`, `on` or `off`."""
    return auto if switch == "auto" else switch == "on"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it wraps; frameworks carry the errors of workers in several ways."""
    seen: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting:
        found = waiting.pop(0)
        if not isinstance(found, BaseException) or any(found is other for other in seen):
            continue
        seen.append(found)
        yield found
        waiting += [getattr(found, "cause", None), found.__cause__]
        waiting += getattr(found, "worker_failures", {}).values()


def find_user_error(error: BaseException) -> UserError | None:
    """The user's mistake behind an error, if it is one."""
    # A subclass may be a framework's copy that prints a traceback: only the class itself counts.
    return next((e for e in _causes(error) if type(e) is UserError), None)
