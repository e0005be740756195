"""A node that Ray is about to drain: the training saves first, and goes on elsewhere."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.e2e.own_cluster import run_script

pytestmark = pytest.mark.e2e

TRAINING = """
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from pipelines.cluster.join import ray_options
from pipelines.cluster.placement import choose_devices
from pipelines.io import lock
from pipelines.io.arrays import latent_arrays
from pipelines.tracking.start import start_run
from pipelines.training.methods.ldm import LDMMethod
from pipelines.training.trainer import Data, Plan, fit
from tests.unit.pipelines.training.test_loop import CONFIGS, Place


class Slow(LDMMethod):
    # Notes each step with its node; slow until the third node takes part.

    def train_step(self, batch, step):
        node = ray.get_runtime_context().get_node_id()
        with open(folder / f"rank-{self.world.rank}", "a") as file:
            file.write(f"{step} {node}\\n")
        if len({node for rank in range(2) for _, node in read(rank)}) < 3:
            time.sleep(0.5)  # The notice comes within seconds.
        return super().train_step(batch, step)


def read(rank):
    path = folder / f"rank-{rank}"
    return [tuple(line.split()) for line in path.read_text().splitlines()] if path.exists() else []


folder = Path(sys.argv[1])


def drain_one():
    while len(read(1)) < 5:
        time.sleep(0.1)
    node = read(1)[0][1]
    subprocess.run(
        ["ray", "drain-node", "--address", cluster.address, "--node-id", node,
         "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot",
         "--deadline-remaining-seconds", "300"],
        check=True,
    )


cluster = Cluster(True, head_node_args={"num_cpus": 0})
for _ in range(3):
    cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
ray.init(**(ray_options() | {"address": cluster.address}))
config = replace(CONFIGS["ldm"], root=str(folder), num_workers=2, steps=int(sys.argv[2]),
                 log_every=1000, validate_every=1000, checkpoint_every=1000, keep=2)
place = Place(folder, config)
data = Data(str(folder / "data"), place.markers, "job",
            partial(latent_arrays, classes=["a", "b"]), are_arrays=True)
threading.Thread(target=drain_one, daemon=True).start()
with start_run("train_ldm", config) as run:
    devices = choose_devices(config.request())
    with lock.writing(str(folder / "trained"), "train_ldm") as owner:
        fit(Plan(config, partial(Slow, data=place.index), data, str(folder / "trained"), "recipe",
                 run.uri, run.id, devices, owner=owner))
ray.shutdown()
cluster.shutdown()
"""
STEPS = 60


def test_a_drained_node_costs_no_step() -> None:
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        done = run_script(TRAINING, folder, STEPS, timeout_s=480)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = [Path(folder, f"rank-{rank}").read_text().splitlines() for rank in range(2)]
    assert "away: saving first" in done.stdout
    for noted in lines:
        assert [int(line.split()[0]) for line in noted] == list(range(STEPS))  # each once
    drained = lines[1][0].split()[1]
    assert all(line.split()[1] != drained for noted in lines for line in noted[-5:])
