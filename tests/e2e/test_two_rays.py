"""Several Rays on one machine: processes beside a training connect to their own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ALIVE = """
import ray
from pipelines.cluster import join as cluster

ray.init(num_cpus=1, **cluster.ray_options(own=True))
note = cluster.cluster_note()
note.parent.mkdir(parents=True, exist_ok=True)
note.write_text("192.0.2.1:6379")  # as another Ray would, started later


@ray.remote(num_cpus=0)
class Controller:
    def ready(self):
        return True


@ray.remote
def judged_alive(actor_id):
    # What Ray Train's cleaner asks before it takes a training's workers away.
    from ray.train.v2._internal.state.util import is_actor_alive

    return is_actor_alive(actor_id=actor_id, timeout=5)


controller = Controller.remote()
ray.get(controller.ready.remote())
print(ray.get(judged_alive.remote(controller._actor_id.hex()), timeout=60))
"""


@pytest.mark.e2e
def test_the_note_of_another_ray_does_not_end_a_training():
    repository = Path(__file__).parents[2]
    # Ray's sockets lie below this folder, whose path must be short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        done = subprocess.run(
            [sys.executable, "-c", ALIVE],
            cwd=repository,
            env=environment | {"RAY_TMPDIR": folder},
            capture_output=True,
            text=True,
            timeout=480,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"
