"""Credentials reach the workers of a cluster, and nothing that is written down or printed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.io import storage
from tests.e2e.conftest import KEY, S3Server, free_port
from tests.playable_videos import write_file

REPOSITORY = Path(__file__).parents[2]
PLANTED = {
    "AWS_SECRET_ACCESS_KEY": "planted-b1f0-storage",
    "MLFLOW_TRACKING_PASSWORD": "planted-b1f0-tracking",
    "MLFLOW_TRACKING_TOKEN": "planted-b1f0-token",
}
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@pytest.fixture
def cluster() -> Iterator[tuple[str, Path]]:
    """Address and files of a Ray that was started without credentials."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        port = free_port()
        command = [*RAY, "start", "--head", "--block", f"--port={port}", "--num-cpus=2"]
        command += ["--include-dashboard=false", f"--temp-dir={folder}"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "RAY_"))}
        environment |= {"RAY_AUTH_MODE": "disabled"}
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            cwd=REPOSITORY,
        ) as process:  # fmt: skip
            yield f"127.0.0.1:{port}", Path(folder)
            process.terminate()


def written(*folders: Path) -> list[str]:
    """Files that hold a planted secret."""
    secrets = [value.encode() for value in PLANTED.values()]
    return [
        str(path)
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and any(secret in path.read_bytes() for secret in secrets)
    ]


@pytest.mark.e2e
def test_planted_secrets_are_found_nowhere(
    cluster: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    address, ray_files = cluster
    server = S3Server(tmp_path / "s3", PLANTED["AWS_SECRET_ACCESS_KEY"])
    (server.folder / "bucket").mkdir(parents=True)
    server.start()
    try:
        mine = PLANTED | {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
            "RAY_ADDRESS": address,
            "RAY_AUTH_MODE": "disabled",
        }
        for name, value in mine.items():
            monkeypatch.setenv(name, value)
        video = np.random.default_rng(0).integers(0, 256, (32, 64, 64, 3), np.uint8)
        write_file(tmp_path / "v.mp4", video, 16.0)
        for name in ("a/1", "a/2", "b/1"):
            storage.publish_file(tmp_path / "v.mp4", f"s3://bucket/videos/{name}.mp4")
        command = [sys.executable, "jobs/shard_videos.py", "--root", "s3://bucket/run"]
        command += ["--videos", "s3://bucket/videos"]
        done = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=480,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "clips of 3 videos" in done.stdout
        said = done.stdout + done.stderr
        assert not [value for value in PLANTED.values() if value in said]
        assert len(list(ray_files.rglob("*.log"))) > 3
        assert written(ray_files, server.folder, tmp_path) == []
    finally:
        server.kill()
