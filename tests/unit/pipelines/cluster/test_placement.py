"""A job's place in the cluster: nodes, plans, and hints."""

import pytest
import torch

from pipelines.cluster import placement
from pipelines.cluster.autoscaler import FIXED, UNKNOWN
from pipelines.cluster.decision import Cluster
from pipelines.cluster.devices import CORE_PART, Devices
from pipelines.cluster.placement import look
from pipelines.cluster.request import Request


def test_nodes_are_counted() -> None:
    alive = {"CPU": 8.0, "GPU": 4.0, "accelerator_type:H100": 1.0}
    nodes = [
        {"Alive": True, "Resources": alive},
        {"Alive": True, "Resources": alive},
        {"Alive": True, "Resources": {"CPU": 4.0}},
        {"Alive": True, "Resources": {"memory": 1.0}},
        {"Alive": False, "Resources": {"CPU": 100.0, "GPU": 100.0}},
    ]
    assert look(nodes) == Cluster(20, 8, 3, 2, ("H100",), FIXED)


def test_a_plan_starts_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "joins_cluster", lambda: False)
    monkeypatch.setattr(placement, "join_ray", lambda: pytest.fail("Ray was started"))
    monkeypatch.setattr(placement, "local_cpus", lambda: 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert placement.describe_devices(Request(share=32)) == "running on 2 workers with one GPU each"
    assert "on 4 cores" in placement.describe_devices(Request("cpu", share=32))


def test_an_unknown_offer_is_asked_for() -> None:
    assert placement._is_open(Cluster(8, 0, offer=UNKNOWN), Request())
    assert not placement._is_open(Cluster(8, 1, offer=UNKNOWN), Request())
    assert not placement._is_open(Cluster(8, 0, offer=UNKNOWN), Request("cpu"))
    assert not placement._is_open(Cluster(8, 0, offer=FIXED), Request())


def test_a_memory_hint_never_makes_a_node_take_fewer_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 4, "memory": 4e9}},
        {"Alive": True, "Resources": {"CPU": 8, "memory": 64e9}},
        {"Alive": False, "Resources": {"CPU": 8, "memory": 1e6}},
    ]
    monkeypatch.setattr(placement.ray, "nodes", lambda: nodes)
    assert placement.memory_hint(Devices("cpu", 12), 2 * 10**9) == 0.5e9
    assert placement.memory_hint(Devices("cpu", 12), 10**8) == 1e8
    assert placement.memory_hint(Devices("cpu", 13), 10**8) is None  # A node is still to come.
    assert placement.memory_hint(Devices("cuda", 1, 1.0), 10**8) is None


def test_every_kind_of_card_is_asked_what_it_is_fast_at(monkeypatch: pytest.MonkeyPatch) -> None:
    assert placement._kinds(Devices("cuda", 2, 1.0, cards=("A10G", "T4"))) == [
        {"resources": {"accelerator_type:A10G": CORE_PART}},
        {"resources": {"accelerator_type:T4": CORE_PART}},
    ]
    assert placement._kinds(Devices("cuda", 2, 1.0)) == [{}]
    nodes = [
        {"Alive": True, "NodeID": "a" * 56, "Resources": {"CPU": 4}},
        {"Alive": True, "NodeID": "b" * 56, "Resources": {"CPU": 4}},
        {"Alive": True, "NodeID": "c" * 56, "Resources": {"memory": 1}},
        {"Alive": False, "NodeID": "d" * 56, "Resources": {"CPU": 4}},
    ]
    monkeypatch.setattr(placement.ray, "nodes", lambda: nodes)
    places = [each["scheduling_strategy"] for each in placement._kinds(Devices("cpu"))]
    assert [place.node_id for place in places] == ["a" * 56, "b" * 56]


def test_a_job_on_this_machine_alone_asks_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "is_own_ray", lambda: True)
    monkeypatch.setattr(placement, "_precisions_here", lambda kind: ("bf16", "fp32"))
    assert placement.settle_precision(Devices()) == "bf16"
    assert placement.settle_precision(Devices(), "fp32") == "fp32"
