"""How a job finds its Ray cluster, or starts one of its own."""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError

from vqvdm.errors import UserError

FORWARDED = ("AWS_", "MLFLOW_", "VQVDM_")
LONGEST_TEMPORARY = 36
"""Bytes of the path of a temporary folder in which Ray can make its sockets."""
NAMED_ANSWERS_S, NOTED_ANSWERS_S = 5.0, 2.0
"""Seconds that the cluster of RAY_ADDRESS, or the one in the note, has to answer."""

_own: set[str] = set()
"""Addresses of the Rays that this process started."""
_in_new_sessions = threading.Event()
"""Set while processes that are started get sessions of their own."""


def join_ray(trains: bool = False) -> None:
    """Join the running cluster, or start one in this process; `UserError` if neither works.

    One of our own has a dashboard, which takes as long to start as all else, for trainings only:
    what Ray Train runs beside them asks it. A process that calls several jobs, trainings among
    them, joins first with `trains`: a Ray that runs is not started again.
    """
    options, joined = ray_options(), ray.is_initialized()
    if "address" not in options:
        refuse_dead_cluster(os.environ.get("RAY_ADDRESS", ""))
    else:
        options["include_dashboard"] = trains
    try:
        with _starting(options) if "address" in options else nullcontext():
            ray.init(**options)
        logging.getLogger("ray").setLevel(logging.WARNING)
        if "address" in options and not joined:
            _own.add(ray.get_runtime_context().gcs_address)
    except AuthenticationError as error:
        raise UserError(
            "the Ray cluster wants a token: export RAY_AUTH_MODE=token, and put the cluster's "
            "token into ~/.ray/auth_token or RAY_AUTH_TOKEN"
        ) from error
    except RuntimeError as error:
        # Ray names both versions, in several lines.
        words = str(error).split()
        if words[:2] != ["Version", "mismatch:"]:
            raise
        raise UserError(
            f"this Python or Ray is not the cluster's: {' '.join(words[2:])}: use the cluster's "
            "versions here, or `ray job submit`, which starts the job with them"
        ) from error
    except Exception as error:
        # Of no type of its own: after half a minute Ray no longer waits for its processes.
        if "timed out during startup" not in str(error):
            raise
        raise UserError(
            "Ray's processes did not start within 30 s, as this machine is too busy: try again "
            "when it is less so"
        ) from error


def is_own_ray() -> bool:
    """Whether this process started the Ray that it uses: such a Ray has no autoscaler."""
    return ray.get_runtime_context().gcs_address in _own


def joins_cluster() -> bool:
    """Whether `join_ray` would join a cluster that runs, rather than start one."""
    return ray.is_initialized() or not _starts_own()


def _starts_own() -> bool:
    named = os.environ.get("RAY_ADDRESS")
    return named == "local" or (named is None and not noted_cluster_answers())


@contextmanager
def _starting(options: dict[str, Any]) -> Iterator[None]:
    """Within the context, a Ray of our own starts, in sessions of its own.

    What stops a job may signal all of its process group, as GNU `timeout` does: Ray would end
    before its workers have saved. Nothing outlives the driver, as Ray asks the kernel for that.
    """
    with _short_paths(options):
        _in_new_sessions.set()
        try:
            yield
        finally:
            _in_new_sessions.clear()


def _leave_session() -> None:
    if _in_new_sessions.is_set():
        os.setsid()


# Called where a child runs Python before its program, as those of Ray do (`preexec_fn`).
os.register_at_fork(after_in_child=_leave_session)


@contextmanager
def _short_paths(options: dict[str, Any]) -> Iterator[None]:
    """Spare a Ray of our own, which starts within the context, what this machine does not allow."""
    if not os.access(os.path.expanduser("~"), os.W_OK):
        # Otherwise Ray would write a token into ~/.ray.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) <= LONGEST_TEMPORARY:
        yield
        return
    # Paths of sockets have at most 107 bytes, and Ray appends some 70. Only workers use the folder.
    os.environ.setdefault("RAY_TMPDIR", "/tmp")
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = "/tmp"
    options.setdefault("runtime_env", {}).setdefault("env_vars", {})["TMPDIR"] = folder
    try:
        yield
    finally:
        del os.environ["TMPDIR"]
        os.environ |= {"TMPDIR": before} if before else {}


def refuse_dead_cluster(address: str) -> None:
    """`UserError` if nothing answers at HOST:PORT; other forms of addresses are left to Ray."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), NAMED_ANSWERS_S).close()
    except OSError as error:
        raise UserError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({error}): start it, or unset "
            "RAY_ADDRESS to run without a cluster"
        ) from error


def ray_options(own: bool = False) -> dict[str, Any]:
    """Arguments of `ray.init`: join the running cluster, or start one in this process.

    A cluster is started with `own`, or if none answers. Workers get the storage and tracking
    variables of the driver, unless the job was submitted: then they came with the job or the
    cluster. They may be secrets: Ray writes `env_vars` to its logs, so they travel otherwise.
    """
    # Ray Data keeps the reservation of a killed driver for three minutes, and the same command
    # would wait for it. A running driver renews its reservation every ten seconds.
    os.environ.setdefault("RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S", "30")
    options: dict[str, Any] = {
        "ignore_reinit_error": True,
        "logging_level": logging.WARNING,
        "log_to_driver": True,
    }
    own = own or _starts_own()
    if own:
        options["address"] = "local"
        # What it says at its start concerns clusters that others use too: it has a token.
        options["logging_level"] = logging.ERROR
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        # Ray Train would print every line of a worker twice.
        runtime_env: dict[str, Any] = {"env_vars": {"RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}}
        if own:  # Its processes inherit the driver's environment.
            runtime_env["env_vars"]["RAY_ADDRESS"] = _address_of_own()
            # Ray starts workers by a shell, which would end the path at a space.
            runtime_env["py_executable"] = shlex.quote(sys.executable)
        else:
            runtime_env["worker_process_setup_hook"] = _variables_setter()
        options["runtime_env"] = runtime_env
    return options


def _variables_setter() -> Callable[[], None]:
    """A function that gives a worker's process the driver's storage and tracking variables."""
    variables = {k: v for k, v in os.environ.items() if k.startswith(FORWARDED)}

    def set_variables() -> None:
        os.environ.update(variables)

    return set_variables


def _address_of_own() -> str:
    """The address of the Ray that this process starts next.

    Processes that Ray runs beside a training search for their cluster: at `RAY_ADDRESS`, else at
    the address in the note, which another Ray on this machine may have written. The other Ray
    would report the training as dead, and its workers would be ended.
    """
    try:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
    except OSError as error:
        raise UserError(
            f"Ray needs the address 127.0.0.1, which this machine lacks ({error.strerror}): "
            "`ip address add 127.0.0.1/8 dev lo`, or set RAY_ADDRESS to join a cluster"
        ) from error
    os.environ["RAY_GCS_SERVER_PORT"] = str(port)  # `ray.init` has no argument for it
    return f"127.0.0.1:{port}"


def cluster_note() -> Path:
    """The file in which Ray records the cluster it started here, as the last step of the start."""
    # As in Ray, which reads TMPDIR on Linux only.
    temporary = tempfile.gettempdir() if sys.platform == "linux" else "/tmp"
    return Path(os.environ.get("RAY_TMPDIR", temporary), "ray", "ray_current_cluster")


def noted_cluster_answers() -> bool:
    """Whether the cluster in the note answers: Ray would wait minutes for one that was killed."""
    note = cluster_note()
    host, _, port = (note.read_text().strip() if note.is_file() else "").rpartition(":")
    try:
        socket.create_connection((host, int(port)), NOTED_ANSWERS_S).close()
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
        names = ("cause", "controller_failure", "__cause__")
        waiting += [getattr(found, name, None) for name in names]
        waiting += getattr(found, "worker_failures", {}).values()


def find_user_error(error: BaseException) -> UserError | None:
    """The user's mistake behind an error, if it is one."""
    # A subclass may be a framework's copy that prints a traceback: only the class itself counts.
    return next((e for e in _causes(error) if type(e) is UserError), None)
