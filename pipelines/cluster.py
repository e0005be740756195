"""The scale: how a job finds its cluster, and what this machine is good at."""

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

    The latter always with `own`, and where no cluster answers. The storage and tracking variables
    of the driver are handed to the workers, unless the job was submitted: then they came with the
    job or with the cluster.
    """
    # Ray Data reserves what a killed driver had been given for three minutes, in which the same
    # command would wait. A living driver renews its share every ten seconds.
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
    """Where the Ray that this process starts next is to be found.

    What Ray runs beside a training looks for its cluster anew: where `RAY_ADDRESS` says, else where
    the note does, which another Ray on this machine may have written. Asked there, a training
    would pass for dead and lose its workers.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    os.environ["RAY_GCS_SERVER_PORT"] = str(port)  # `ray.init` has no argument for it
    return f"127.0.0.1:{port}"


def cluster_note() -> Path:
    """The file where Ray notes down, last of all, which cluster it started on this machine."""
    # As Ray has it: of all systems it is Linux that it minds TMPDIR on.
    temporary = tempfile.gettempdir() if sys.platform == "linux" else "/tmp"
    return Path(os.environ.get("RAY_TMPDIR", temporary), "ray", "ray_current_cluster")


def noted_cluster_answers(timeout_s: float = 2.0) -> bool:
    """Whether the cluster of that note runs: Ray would wait minutes for one that was killed."""
    note = cluster_note()
    host, _, port = (note.read_text().strip() if note.is_file() else "").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout_s).close()
    except (OSError, ValueError):
        return False
    return True


def set_up_ray_data(context: Any) -> None:
    """Leave the screen to the job: what fails is told in one line, and Ray's log has the rest.

    `context` is Ray Data's own; with it, Ray's logging is there to be set.
    """
    context.enable_progress_bars = False
    # What a task raises comes back as it is. Wrapped, only its text would.
    context.raise_original_map_exception = True
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)


def resolve_switch(switch: str, auto: bool) -> bool:
    """What `auto`, `on` or `off` comes to."""
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
    # A subclass may be a framework's copy that prints a traceback: the plain one is wanted.
    return next((e for e in _causes(error) if type(e) is UserError), None)
