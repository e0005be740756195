"""A worker on another node than the driver, which cannot open the driver's database."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.e2e.own_cluster import REPOSITORY, run_script

pytestmark = pytest.mark.e2e

# Python runs this first: on the worker's node no SQLite file can be opened.
NO_DATABASE = """
import sqlite3
def connect(*args, **kwargs):
    raise sqlite3.OperationalError("unable to open database file")
sqlite3.connect = sqlite3.dbapi2.connect = connect
"""
TRAINING = """
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import ray
from mlflow.tracking import MlflowClient
from ray.cluster_utils import Cluster

from pipelines.cluster.join import ray_options
from pipelines.cluster.placement import choose_devices
from pipelines.io import lock
from pipelines.io.arrays import latent_arrays
from pipelines.tracking.start import start_run
from pipelines.training.methods.ldm import LDMMethod
from pipelines.training.trainer import Data, Plan, fit
from tests.unit.pipelines.training.test_loop import CONFIGS, Place

folder, node = Path(sys.argv[1]), sys.argv[2]
cluster = Cluster(True, head_node_args={"num_cpus": 0})
cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": node})
cluster.wait_for_nodes()
options = ray_options() | {"address": cluster.address}
ray.init(**options)
config = replace(CONFIGS["ldm"], root=str(folder))
place = Place(folder, config)
data = Data(str(folder / "data"), place.markers, "job",
            partial(latent_arrays, classes=["a", "b"]))
method = partial(LDMMethod, data=place.index)
with start_run("train_ldm", config) as run:
    devices = choose_devices(config.request())
    with lock.writing(str(folder / "trained"), "train_ldm") as owner:
        fit(Plan(config, method, data, str(folder / "trained"), "recipe", run.uri, run.id, devices,
                 owner=owner))
history = MlflowClient(run.uri).get_metric_history(run.id, "train/loss")
print([metric.step for metric in history])
ray.shutdown()
cluster.shutdown()
"""


def test_the_driver_logs_for_a_worker_on_another_node() -> None:
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        node = Path(folder, "node")
        node.mkdir()
        (node / "sitecustomize.py").write_text(NO_DATABASE)
        done = run_script(TRAINING, folder, f"{node}:{REPOSITORY}", timeout_s=480)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "running on the CPU: one worker on 1 cores; the cluster has no GPU" in lines
    assert lines[-1] == "[1, 2, 3, 4]", done.stdout
