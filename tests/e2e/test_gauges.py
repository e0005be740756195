"""What a training exports is what Prometheus finds at its node."""

import time
import urllib.request

import pytest
import ray

from pipelines.training.gauges import exporter
from tests.e2e.conftest import Runner

LIMIT_S = 60
FOUND = 'model="ldm/base"'


@pytest.mark.e2e
def test_prometheus_finds_the_figures_of_a_training(job: Runner) -> None:
    @ray.remote(num_cpus=0.1)
    class Worker:
        def train(self) -> str:
            exporter("s3://bucket/run/ldm/base")(
                {"throughput/clips_per_s": 40.0, "time/data_wait_s": 0.25}
            )
            return ray.get_runtime_context().get_node_id()

    worker = Worker.remote()  # type: ignore[attr-defined]
    node_id = ray.get(worker.train.remote())
    (node,) = (node for node in ray.nodes() if node["NodeID"] == node_id)
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline, lines = time.monotonic() + LIMIT_S, list[str]()
    while len(lines) < 2 and time.monotonic() < deadline:
        time.sleep(1)
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = [line for line in answer.read().decode().splitlines() if FOUND in line]
    figures = {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines}
    assert figures == {"ray_vqvdm_clips_per_second": 40.0, "ray_vqvdm_data_wait_seconds": 0.25}
