"""Nodes that come with the work and go after it, by Ray's own autoscaler."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from ast import literal_eval
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.growing_cluster import growing_cluster
from tests.playable_videos import write_file

pytestmark = [pytest.mark.e2e, pytest.mark.slow]  # Nodes take their time to come and to go.
REPOSITORY = Path(__file__).parents[2]
IDLE_S, CHANGE_S = 10, 120
WATCH = """
import time
import ray
from pipelines.cluster.join import ray_options
ray.init(**ray_options())
before = None
while True:
    found = sorted("GPU" if "GPU" in node["Resources"] else "CPU" for node in ray.nodes()
                   if node["Alive"] and "CPU" in node["Resources"])
    if found != before:
        print(found, flush=True)
        before = found
    time.sleep(0.1)
"""


class Watch:
    """The nodes that a cluster has for work, by their kind, at each change."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def wait_for(self, nodes: list[str]) -> list[list[str]]:
        """All that was seen until these nodes were left, which starts anew."""
        deadline = time.monotonic() + CHANGE_S
        while self.seen[-1:] != [nodes]:
            assert time.monotonic() < deadline, self.seen
            time.sleep(0.1)
        seen, self.seen = self.seen, []
        return seen


@contextmanager
def watching(environment: dict[str, str]) -> Iterator[Watch]:
    watch = Watch()
    command = [sys.executable, "-c", WATCH]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout

        def read() -> None:
            for line in process.stdout or ():
                if line.startswith("["):  # Ray has lines of its own.
                    watch.seen.append(literal_eval(line))

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield watch
        finally:
            process.kill()
            reader.join()


def job(environment: dict[str, str], name: str, *arguments: object) -> str:
    """All that a job prints."""
    command = [sys.executable, f"jobs/{name}.py", *map(str, arguments)]
    done = subprocess.run(
        command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )
    return done.stdout + done.stderr


def kinds(seen: list[list[str]]) -> set[str]:
    return {kind for nodes in seen for kind in nodes}


def test_nodes_come_for_the_work_that_needs_them_and_go_after_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(4):
        folder = tmp_path / "videos" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        frames = rng.integers(0, 256, (32, 64, 64, 3), np.uint8)
        write_file(folder / f"{number}.mp4", frames, 16.0)
    with growing_cluster(IDLE_S, cpu={"CPU": 1}, gpu={"CPU": 1, "GPU": 1}) as cluster:
        cluster |= {
            "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
            "PYTHONPATH": str(REPOSITORY),
        }
        with watching(cluster) as watch:
            assert watch.wait_for([]) == [[]]
            root = ["--root", tmp_path / "run"]
            said = job(cluster, "shard_videos", "--videos", tmp_path / "videos", *root)
            assert "clips of 4 videos" in said, said
            assert kinds(watch.wait_for([])) == {"CPU"}
            # The training waits for its node, though nodes with CPUs would be there as soon.
            said = job(cluster, "train_vqgan", *root, "--num-workers", 1, "--steps", 2)
            assert "running on one worker with one GPU" in said, said
            # Which is but a number, so that the worker has no card to train on.
            assert "was given a GPU, and PyTorch" in said, said
            assert kinds(watch.wait_for([])) == {"GPU"}
