"""Nodes come and go: the training goes on with the workers there is room for, sample by sample."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest

from pipelines.training.checkpoints import consumed
from tests.e2e.own_cluster import run_script

pytestmark = pytest.mark.e2e
TRAINING = """
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, remove_placement_group

from pipelines.cluster.placement import choose_devices
from pipelines.cluster.join import ray_options
from pipelines.io import lock
from pipelines.io.arrays import latent_arrays
from pipelines.tracking.start import start_run
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.methods.ldm import LDMMethod
from pipelines.training.trainer import Data, Plan, fit
from tests.unit.pipelines.training.test_loop import CONFIGS, Place

folder, sizes = Path(sys.argv[1]), [int(size) for size in sys.argv[3:]]


class Slow(LDMMethod):
    # Notes the number of workers at each step; waits until all numbers have been seen.

    def train_step(self, batch, step):
        with open(folder / f"rank-{self.world.rank}", "a") as file:
            file.write(f"{step} {self.world.size}\\n")
        seen = [int(line.split()[1]) for line in (folder / "rank-0").read_text().splitlines()]
        if [size for at, size in enumerate(seen) if size not in seen[at - 1 : at]] != sizes:
            time.sleep(0.5)
        return super().train_step(batch, step)


def steps(rank):
    path = folder / f"rank-{rank}"
    return len(path.read_text().splitlines()) if path.exists() else 0


def come_and_go():
    while steps(0) < 3:
        time.sleep(0.1)
    remove_placement_group(other_job)
    while steps(1) < 5:  # at least one checkpoint with both
        time.sleep(0.1)
    cluster.remove_node(nodes[1], allow_graceful=False)


cluster = Cluster(True, head_node_args={"num_cpus": 0})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
cluster.wait_for_nodes()
ray.init(**(ray_options() | {"address": cluster.address}))
other_job = placement_group([{"CPU": 1}])
ray.get(other_job.ready())
config = replace(CONFIGS["ldm"], root=str(folder), num_workers=2, min_workers=1,
                 steps=int(sys.argv[2]), log_every=1000, validate_every=1000, checkpoint_every=2,
                 log_keys=True)
config.check()
place = Place(folder, config)
data = Data(str(folder / "data"), place.markers, "job",
            partial(latent_arrays, classes=["a", "b"]), are_arrays=True)
threading.Thread(target=come_and_go, daemon=True).start()
with start_run("train_ldm", config) as run:
    devices = choose_devices(config.request())
    with lock.writing(str(folder / "trained"), "train_ldm") as owner:
        fit(Plan(config, partial(Slow, data=place.index), data, str(folder / "trained"), "recipe",
                 run.uri, run.id, devices, owner=owner))
print("reached", Checkpoints(str(folder / "trained"), "recipe", 2).newest()["step"])
ray.shutdown()
cluster.shutdown()
"""
STEPS, SIZES = 100, [1, 2, 1]


def test_workers_come_and_go() -> None:
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        done = run_script(TRAINING, folder, STEPS, *SIZES, timeout_s=480)
        assert done.returncode == 0, done.stdout + done.stderr
        noted = [line.split() for line in Path(folder, "rank-0").read_text().splitlines()]
        keys = consumed(f"{folder}/trained")
    assert f"reached {STEPS}" in done.stdout
    assert "or as few as 1, as nodes come and go" in done.stdout
    sizes = [int(size) for _, size in noted]
    assert [n for at, n in enumerate(sizes) if n not in sizes[at - 1 : at]] == SIZES
    # Growing costs no step; the lost node costs those since the last checkpoint.
    steps = [int(step) for step, _ in noted]
    grown = sizes.index(2)
    assert steps[: grown + 1] == list(range(grown + 1))
    found = re.search(r"a worker was lost.*going on from step (\d+)", done.stdout)
    assert found and steps[-1] == STEPS - 1 and int(found[1]) in steps[grown:]
    # Whatever their number, the workers consumed each sample once an epoch.
    order = [key for step in keys for key in step]
    epoch = set(order)
    assert len(keys) == STEPS and len(epoch) == 6
    for start in range(0, len(order) - 6, 6):
        assert set(order[start : start + 6]) == epoch
