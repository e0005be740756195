"""Jobs run in unusual environments: no home, a C locale, a long temporary folder, odd names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.sharding import manifest
from pipelines.video.encoder import write_file

REPOSITORY = Path(__file__).parents[2]
ENVIRONMENTS = {
    "a home that is not there": {"HOME": "/proc/nowhere"},
    "a C locale": {"LC_ALL": "C", "PYTHONUTF8": "0"},
    "a long temporary folder": {"TMPDIR": "{tmp}/" + "x" * 70},
}


@pytest.mark.e2e
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_job_runs_in(name: str, tmp_path: Path):
    folder = tmp_path / "vidéos" / "чай 茶"
    folder.mkdir(parents=True)
    video = np.random.default_rng(0).integers(0, 256, (32, 64, 64, 3), np.uint8)
    write_file(folder / "🎬.mp4", video, 16.0)
    odd = os.fsencode(folder) + b"/\xff\xfe.mp4"
    with open(odd, "wb") as file:
        file.write((folder / "🎬.mp4").read_bytes())
    changes = {k: v.format(tmp=tmp_path) for k, v in ENVIRONMENTS[name].items()}
    if "TMPDIR" in changes:
        Path(changes["TMPDIR"]).mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_"))}
    environment |= {"RAY_ADDRESS": "local", "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/m.db"}
    environment |= {"PYTHONPATH": str(REPOSITORY)} | changes
    command = [sys.executable, "jobs/shard_videos.py", "--root", str(tmp_path / "root")]
    done = subprocess.run(
        [*command, "--videos", str(folder.parent)],
        cwd=REPOSITORY, env=environment, capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    rows = manifest.read(str(tmp_path / "root/videos.parquet")).to_pylist()
    assert [(row["label"], row["status"], row["clips"]) for row in rows] == [
        ("чай 茶", "ok", 3)
    ] * 2
