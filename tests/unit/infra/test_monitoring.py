"""Scrape configurations and dashboard name what Ray and the trainings really export."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray.dashboard.modules.metrics.dashboards as panels_of_ray
import yaml
from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

from pipelines.training.gauges import GAUGES

FOLDER = Path(__file__).parents[3] / "infra/monitoring"
KUBERNETES = Path(__file__).parents[3] / "infra/kubernetes"
METRIC = re.compile(r"\b(?:ray|autoscaler)_[a-z0-9_]+")
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
PANELS = DASHBOARD["panels"]


def jobs(name: str) -> dict[str, dict[str, Any]]:
    config = yaml.safe_load((FOLDER / name).read_text())
    return {job["job_name"]: job for job in config["scrape_configs"]}


def test_every_metric_of_the_dashboard_is_exported() -> None:
    (folder,) = panels_of_ray.__path__
    known = {f"ray_{exported}" for exported, _ in GAUGES.values()}
    for path in Path(folder).glob("*_panels.py"):
        known |= set(METRIC.findall(path.read_text()))
    shown = {
        metric
        for panel in PANELS
        for target in panel["targets"]
        for metric in METRIC.findall(target["expr"])
    }
    assert shown <= known
    assert {f"ray_{exported}" for exported, _ in GAUGES.values()} <= shown
    assert {"ray_node_gpus_utilization", "ray_node_gram_used"} <= shown


def test_no_panel_lies_on_another() -> None:
    places = [panel["gridPos"] for panel in PANELS]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}" and panel["title"]


def test_on_a_machine_the_nodes_are_those_that_ray_lists() -> None:
    (discovery,) = jobs("prometheus.yml")["ray"]["file_sd_configs"]
    assert discovery["files"] == [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]


@pytest.mark.parametrize("job", ["ray", "autoscaler"])
def test_on_kubernetes_the_pods_are_those_of_ray(job: str) -> None:
    keep, *_ = jobs("prometheus-kubernetes.yml")[job]["relabel_configs"]
    assert keep["action"] == "keep"
    label, port = keep["source_labels"]
    assert label.startswith("__meta_kubernetes_pod_label_ray_io_")
    assert port == "__meta_kubernetes_pod_container_port_name"
    assert isinstance(keep["regex"], str) and keep["regex"].endswith(";metrics")
    network = (KUBERNETES / "base/network.yaml").read_text()
    cluster = (KUBERNETES / "base/raycluster.yaml").read_text()
    assert "{name: metrics, containerPort: 8080}" in cluster
    assert all(f"port: {number}}}" in network for number in (8080, 44217))
