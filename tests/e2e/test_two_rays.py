"""Several Rays on one machine: processes beside a training connect to their own. They are out of
the way of signals to the driver's process group."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pipelines.training.checkpoints import Checkpoints, consumed
from tests.e2e.test_training_kills import MODELS, SETTINGS
from tests.e2e.undisturbed import Undisturbed

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


@pytest.mark.e2e
@pytest.mark.slow
def test_a_signal_to_the_process_group_saves_first(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """As `timeout` sends it: to the driver and whatever is in its group."""
    root = tmp_path / "root"
    shutil.copytree(undisturbed.root, root)
    folder, steps = str(root / "vqgan" / "trained"), 100_000
    flags = [*SETTINGS, *" ".join(MODELS["train_vqgan"]).split(), "--num-workers", "1"]
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as temporary:
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        environment |= {"RAY_TMPDIR": temporary}
        environment |= {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
        driver = subprocess.Popen(
            [sys.executable, "jobs/train_vqgan.py", "--root", root, *flags, "--steps", str(steps)],
            cwd=Path(__file__).parents[2],
            env=environment | {"RAY_ADDRESS": "local"},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            # Ray starts first, which takes long on a busy machine.
            deadline = time.monotonic() + 300
            while not Checkpoints(folder, "", 1).newest_step() and driver.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            os.killpg(driver.pid, signal.SIGTERM)
            _, stderr = driver.communicate(timeout=120)
        finally:
            driver.kill()
    assert driver.returncode == 1, stderr
    step = Checkpoints(folder, "", 1).newest_step() or 0
    assert f"stopped at step {step} of {steps}, which is saved" in stderr
    assert len(consumed(folder)) == step
    assert not Path(folder, "lock.json").exists()
