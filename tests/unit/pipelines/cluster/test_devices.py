"""A worker's part of what was decided."""

import pytest
import torch

from pipelines.cluster import devices
from pipelines.cluster.decision import Cluster, decide
from pipelines.cluster.devices import Devices
from pipelines.cluster.request import Request
from vqvdm.errors import UserError


def test_workers_share_the_cores_of_their_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "local_cpus", lambda: 16)
    on_two_nodes = Cluster(64, 8, cpu_nodes=2, gpu_nodes=2)
    assert decide(on_two_nodes, Request(share=32)).threads() == 4  # of 8 workers, 4 are on a node
    assert decide(Cluster(8, 0), Request(cpu_workers=2, share=32)).threads() == 8
    assert Devices().threads() == 16
    assert devices.threads(64) == 1


def test_a_worker_uses_what_was_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.worker_device("cpu") == torch.device("cpu")
    assert devices.worker_device("cuda").type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = r"was given a GPU, and PyTorch, built for .* sees none: check the"
    with pytest.raises(UserError, match=line):
        devices.worker_device("cuda")
