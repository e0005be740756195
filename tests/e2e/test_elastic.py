"""Nodes come and go, and cannot open the driver's database: the training goes on with the workers
there is room for, sample by sample, and the driver logs for them."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest

from pipelines.training.checkpoints import consumed
from tests.e2e.own_cluster import REPOSITORY, run_script

pytestmark = pytest.mark.e2e

# Python runs this first: on the workers' nodes no SQLite file can be opened.
NO_DATABASE = """
import sqlite3
def connect(*args, **kwargs):
    raise sqlite3.OperationalError("unable to open database file")
sqlite3.connect = sqlite3.dbapi2.connect = connect
"""
TRAINING = """
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import ray
from mlflow.tracking import MlflowClient
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, remove_placement_group

from pipelines.cluster.join import ray_options
from pipelines.cluster.placement import choose_devices
from pipelines.io import lock
from pipelines.io.arrays import latent_arrays
from pipelines.tracking.start import start_run
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.methods.ldm import LDMMethod
from pipelines.training.trainer import Data, Plan, fit
from tests.unit.pipelines.training.test_loop import CONFIGS, Place

folder, node_path, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
sizes = [int(size) for size in sys.argv[5:]]
nodes_used = range(3 if how == "moved" else 2)


class Slow(LDMMethod):
    # Notes the node and the number of workers at each step; waits until all numbers, and where
    # workers move the third node, were seen.

    def train_step(self, batch, step):
        node = ray.get_runtime_context().get_node_id()
        with open(folder / f"rank-{self.world.rank}", "a") as file:
            file.write(f"{step} {self.world.size} {node}\\n")
        seen = [int(line[1]) for line in read(0)]
        used = len({line[2] for rank in range(2) for line in read(rank)})
        grown = [size for at, size in enumerate(seen) if size not in seen[at - 1 : at]]
        if grown != sizes or used < len(nodes_used):
            time.sleep(0.5)
        return super().train_step(batch, step)


def read(rank):
    path = folder / f"rank-{rank}"
    return [tuple(line.split()) for line in path.read_text().splitlines()] if path.exists() else []


def come_and_go():
    while len(read(0)) < 3:
        time.sleep(0.1)
    if how != "moved":
        remove_placement_group(other_job)
    while len(read(1)) < 5:  # at least one checkpoint with both
        time.sleep(0.1)
    if how == "lost":
        cluster.remove_node(nodes[1], allow_graceful=False)
        return
    subprocess.run(
        ["ray", "drain-node", "--address", cluster.address, "--node-id", read(1)[0][2],
         "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot",
         "--deadline-remaining-seconds", "300"],
        check=True,
    )


cluster = Cluster(True, head_node_args={"num_cpus": 0})
nodes = [cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": node_path}) for _ in nodes_used]
cluster.wait_for_nodes()
ray.init(**(ray_options() | {"address": cluster.address}))
if how != "moved":
    other_job = placement_group([{"CPU": 1}])
    ray.get(other_job.ready())
fewest = None if how == "moved" else 1
config = replace(CONFIGS["ldm"], root=str(folder), num_workers=2, min_workers=fewest,
                 steps=int(sys.argv[4]), log_every=10, validate_every=1000, checkpoint_every=2,
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
history = MlflowClient(run.uri).get_metric_history(run.id, "train/loss")
print("logged", *[metric.step for metric in history])
print("reached", Checkpoints(str(folder / "trained"), "recipe", 2).newest()["step"])
ray.shutdown()
cluster.shutdown()
"""
STEPS = 100
SIZES = {"drained": [1, 2, 1], "lost": [1, 2, 1], "moved": [2]}
"""Numbers of workers, by how the second node goes: with a notice, without one, or with one and a
third node in its place."""


@pytest.mark.parametrize(
    "how", ["drained", *(pytest.param(how, marks=pytest.mark.slow) for how in ("lost", "moved"))]
)
def test_workers_come_and_go(how: str) -> None:
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        node = Path(folder, "node")
        node.mkdir()
        (node / "sitecustomize.py").write_text(NO_DATABASE)
        arguments = (f"{node}:{REPOSITORY}", how, STEPS, *SIZES[how])
        done = run_script(TRAINING, folder, *arguments, timeout_s=480)
        assert done.returncode == 0, done.stdout + done.stderr
        ranks = [Path(folder, f"rank-{rank}").read_text().splitlines() for rank in range(2)]
        keys = consumed(f"{folder}/trained")
    assert f"reached {STEPS}" in done.stdout
    assert ("or as few as 1, as nodes come and go" in done.stdout) == (how != "moved")
    noted = [line.split() for line in ranks[0]]
    steps, sizes = [int(step) for step, _, _ in noted], [int(size) for _, size, _ in noted]
    assert [n for at, n in enumerate(sizes) if n not in sizes[at - 1 : at]] == SIZES[how]
    logged = list(map(int, re.findall(r"\d+", re.findall(r"logged (.*)", done.stdout)[0])))
    if how != "lost":
        # Told before, the training saves first: neither growing, shrinking nor moving costs a step.
        assert "away: saving first" in done.stdout
        assert steps == list(range(STEPS))
        assert how != "moved" or [int(line.split()[0]) for line in ranks[1]] == steps
        assert logged == list(range(10, STEPS + 1, 10))
        drained = ranks[1][0].split()[2]
        assert all(line[2] != drained for line in noted[-5:])
    else:
        # A lost node costs the steps since the last checkpoint.
        grown = sizes.index(2)
        assert steps[: grown + 1] == list(range(grown + 1))
        found = re.search(r"a worker was lost.*resuming from step (\d+)", done.stdout)
        assert found and steps[-1] == STEPS - 1 and int(found[1]) in steps[grown:]
        assert set(logged) == set(range(10, STEPS + 1, 10))
    # Whatever their number, the workers consumed each sample once an epoch.
    order = [key for step in keys for key in step]
    epoch = set(order)
    assert len(keys) == STEPS and len(epoch) == 6
    for start in range(0, len(order) - 6, 6):
        assert set(order[start : start + 6]) == epoch
