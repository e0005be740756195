"""Nodes that come with the work, by Ray's own autoscaler."""

from __future__ import annotations

import subprocess
import sys
from ast import literal_eval
from pathlib import Path

import numpy as np
import pytest

from pipelines.video.encoder import write_file
from tests.e2e.growing_cluster import growing_cluster

pytestmark = [pytest.mark.e2e, pytest.mark.slow]  # Nodes take their time to come.
REPOSITORY = Path(__file__).parents[2]
NODES = """
import ray
from pipelines.cluster.join import ray_options
ray.init(**ray_options())
print(sorted("GPU" if "GPU" in node["Resources"] else "CPU"
             for node in ray.nodes() if node["Alive"] and "CPU" in node["Resources"]))
"""
TRAINING = """
from pipelines.cluster.placement import choose_devices
from pipelines.cluster.request import Request
print(choose_devices(Request(num_workers=1, share=4)).kind)
"""


def run(arguments: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment | {"PYTHONPATH": str(REPOSITORY)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def last_line(script: str, environment: dict[str, str]) -> str:
    """What a script prints at last, apart from Ray's own lines."""
    lines = run(["-c", script], environment).splitlines()
    return [line for line in lines if not line.startswith("(") and "\x1b" not in line][-1]


def test_nodes_with_cpus_come_for_sharding(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(4):
        folder = tmp_path / "videos" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        frames = rng.integers(0, 256, (32, 64, 64, 3), np.uint8)
        write_file(folder / f"{number}.mp4", frames, 16.0)
    with growing_cluster(cpu={"CPU": 1}, gpu={"CPU": 1, "GPU": 1}) as cluster:
        cluster |= {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
        assert last_line(NODES, cluster) == "[]"
        places = ["--videos", str(tmp_path / "videos"), "--root", str(tmp_path / "run")]
        said = run(["jobs/shard_videos.py", *places], cluster)
        assert "clips of 4 videos" in said
        # No node with a GPU came for work that needs none.
        assert set(literal_eval(last_line(NODES, cluster))) == {"CPU"}


def test_a_training_waits_for_its_gpu_and_does_not_take_a_cpu() -> None:
    with growing_cluster(cpu={"CPU": 1}, gpu={"CPU": 1, "GPU": 1}) as cluster:
        assert last_line(TRAINING, cluster) == "cuda"
        assert "GPU" in literal_eval(last_line(NODES, cluster))
