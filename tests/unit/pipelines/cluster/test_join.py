"""Finding a cluster, and the variables of its workers."""

import errno
import logging
import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from pipelines.cluster import join as cluster
from pipelines.cluster.join import find_user_error
from vqvdm.errors import UserError


def test_workers_of_a_cluster_get_the_drivers_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    mine = {"AWS_SECRET_ACCESS_KEY": "planted", "MLFLOW_TRACKING_URI": "sqlite:///a.db"}
    for name, value in (mine | {"UNRELATED": "1"}).items():
        monkeypatch.setenv(name, value)
    runtime_env = cluster.ray_options()["runtime_env"]
    # Ray writes them to its logs, in plain text.
    assert not mine.keys() & runtime_env["env_vars"].keys()
    for name in (*mine, "UNRELATED"):
        monkeypatch.delenv(name)
    runtime_env["worker_process_setup_hook"]()
    try:
        assert {name: os.environ.get(name) for name in mine} == mine
        assert "UNRELATED" not in os.environ
    finally:
        for name in mine:
            os.environ.pop(name, None)


def test_paths_with_a_space_reach_the_shell_that_starts_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setattr(sys, "executable", "/my clone/.venv/bin/python")
    runtime_env = cluster.ray_options(own=True)["runtime_env"]
    assert runtime_env["py_executable"] == "'/my clone/.venv/bin/python'"


def test_a_machine_without_the_loopback_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(UserError, match=r"needs the address 127\.0\.0\.1"):
        cluster.ray_options(own=True)


def test_a_machine_too_busy_to_start_ray_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "timed out during startup"
    assert words in (Path(ray.__file__).parent / "_private" / "node.py").read_text()

    def refuse(**_: object) -> None:
        raise Exception(f"The current node {words}. This could happen because")

    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UserError, match="did not start within 30 s, as this machine is too busy"):
        cluster.join_ray()


def test_a_submitted_job_brings_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert "runtime_env" not in cluster.ray_options()


def remember(monkeypatch: pytest.MonkeyPatch, folder: Path, address: str) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    (folder / "ray").mkdir()
    (folder / "ray" / "ray_current_cluster").write_text(address)


def test_a_cluster_that_runs_is_joined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        remember(monkeypatch, tmp_path, f"127.0.0.1:{server.getsockname()[1]}")
        assert "address" not in cluster.ray_options()


@pytest.mark.parametrize("address", ["", "nonsense", "gone"])
def test_a_cluster_that_was_killed_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str
) -> None:
    if address == "gone":
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"127.0.0.1:{server.getsockname()[1]}"
    remember(monkeypatch, tmp_path, address)
    assert cluster.ray_options()["address"] == "local"


def test_a_cluster_that_is_named_is_joined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    remember(monkeypatch, tmp_path, "")
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    assert "address" not in cluster.ray_options()


def test_a_named_cluster_that_is_dead_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        cluster.refuse_dead_cluster(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=rf"RAY_ADDRESS={address}.*unset RAY_ADDRESS"):
        cluster.join_ray()
    for left_to_ray in ("", "auto", "local", "ray://head:10001", "head"):
        cluster.refuse_dead_cluster(left_to_ray)


@pytest.mark.parametrize("named", [True, False])
def test_processes_of_an_own_ray_get_its_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: bool
) -> None:
    remember(monkeypatch, tmp_path, "")
    monkeypatch.setenv("RAY_GCS_SERVER_PORT", "0")  # so that it is restored afterwards
    if named:
        monkeypatch.setenv("RAY_ADDRESS", "local")
    options = cluster.ray_options()
    assert options["address"] == "local"
    host, _, port = options["runtime_env"]["env_vars"]["RAY_ADDRESS"].rpartition(":")
    assert (host, port) == ("127.0.0.1", os.environ["RAY_GCS_SERVER_PORT"])
    assert int(port) > 0
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    assert "RAY_ADDRESS" not in cluster.ray_options()["runtime_env"]["env_vars"]
    assert cluster.ray_options(own=True)["address"] == "local"  # whichever cluster is named


def test_ray_data_keeps_to_its_log_file() -> None:
    logger = logging.getLogger("ray.data")
    before = logger.handlers[:]
    screen, file = logging.StreamHandler(), logging.NullHandler()
    logger.handlers[:] = [screen, file]
    try:
        cluster.set_up_ray_data(SimpleNamespace())
        assert not screen.level < logging.CRITICAL
        assert file.level == logging.NOTSET
    finally:
        logger.handlers[:] = before


def test_the_reservation_of_a_killed_driver_expires_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S"
    monkeypatch.setenv(name, "7")
    cluster.ray_options()
    assert os.environ[name] == "7"  # The user's setting has priority.
    monkeypatch.delenv(name)
    cluster.ray_options()
    assert os.environ[name] == "30"


class FrameworkError(Exception):
    """Carries errors as frameworks do: in attributes."""

    def __init__(
        self,
        cause: object = None,
        worker_failures: object = None,
        controller_failure: object = None,
    ) -> None:
        super().__init__("a task failed")
        self.cause = cause
        self.controller_failure = controller_failure
        if worker_failures is not None:
            self.worker_failures = worker_failures


class CopiedError(FrameworkError, UserError):
    """A framework's own copy of the error."""


def chained(error: BaseException) -> BaseException:
    try:
        raise RuntimeError("above") from error
    except RuntimeError as wrapped:
        return wrapped


MISTAKE = UserError("pass --root")


@pytest.mark.parametrize(
    "error",
    [
        MISTAKE,
        chained(MISTAKE),
        FrameworkError(cause=MISTAKE),
        FrameworkError(worker_failures={0: OSError("gone"), 1: FrameworkError(cause=MISTAKE)}),
        FrameworkError(controller_failure=FrameworkError(cause=MISTAKE)),
        CopiedError(cause=MISTAKE),
        chained(chained(FrameworkError(cause=chained(MISTAKE)))),
    ],
)
def test_the_plain_mistake_is_found(error: BaseException) -> None:
    assert find_user_error(error) is MISTAKE


@pytest.mark.parametrize(
    "error", [ValueError("no"), chained(OSError()), FrameworkError(cause="text"), FrameworkError()]
)
def test_another_error_is_not_the_users_mistake(error: BaseException) -> None:
    assert find_user_error(error) is None


def test_circles_end() -> None:
    a, b = FrameworkError(), FrameworkError()
    a.cause, b.cause = b, a
    assert find_user_error(a) is None
