"""Jobs as a user submits them: `ray job submit` to a cluster started from the repository."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

from infra import local_cluster
from tests.e2e.conftest import free_port

REPOSITORY = local_cluster.REPOSITORY


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with (
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        # Other tests, which may run beside these, have Rays of their own.
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
        patch.setattr(local_cluster, "STATE", store.with_name("cluster.json"))
        patch.setattr(local_cluster, "LOG", store.with_name("cluster.log"))
        yield local_cluster.up(free_port())
        local_cluster.down()


def submit(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["ray", "job", "submit", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        env=os.environ | local_cluster.AUTHENTICATED,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.e2e
def test_jobs_run_as_commands_and_with_shipped_code(address, digit_videos, tmp_path):
    flags = ("--root", tmp_path / "root", "--videos", digit_videos)
    plain = submit("--", "jobs/shard_videos.py", *flags)
    assert plain.returncode == 0, plain.stdout + plain.stderr
    assert "120 clips of 40 videos" in plain.stdout
    shipped = submit(
        "--address", address, "--working-dir", ".", "--", "jobs/shard_videos.py", *flags
    )
    assert shipped.returncode == 0, shipped.stdout + shipped.stderr
    assert "there already, verified" in shipped.stdout


@pytest.mark.e2e
def test_a_relative_root_would_be_lost_with_shipped_code(address):
    shipped = ("--address", address, "--working-dir", ".")
    outcome = submit(*shipped, "--", "jobs/shard_videos.py", "--root", "somewhere")
    assert outcome.returncode == 1
    assert "pass an absolute path or a URI" in outcome.stdout
    assert "Traceback" not in outcome.stdout.split("error:")[0]
    assert not (REPOSITORY / "somewhere").exists()
