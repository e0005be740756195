"""What an autoscaler may start: as declared, as configured, as `ray status` tells."""

import math
from pathlib import Path

import pytest

from pipelines.cluster import autoscaler
from pipelines.cluster.autoscaler import FIXED, UNKNOWN, Offer
from vqvdm.errors import UserError

FIXED_STATUS = """======== Autoscaler status: 2026-11-26 17:00:49.616259 ========
Node status
---------------------------------------------------------------
Active:
 1 node_e8a97b2d3ea7c6f0a6cd1b3b1b9cbb6a1e1a4d1b0b3f0f9f4bcb1fdd
Idle:
 (no idle nodes)
Pending:
 (no pending nodes)
Recent failures:
 (no failures)
"""
GROWING_STATUS = """======== Autoscaler status: 2026-11-26 17:00:52.636715 ========
Node status
---------------------------------------------------------------
Active:
 1 ray.head.default
Pending:
 gpu, 1 launching
 10.0.0.7: cpu, setting-up
Recent failures:
 (no failures)
"""


@pytest.mark.parametrize(
    ("text", "offer"),
    [
        ("CPU=128,GPU=4", Offer(128, 4)),
        (" GPU = 8 ", Offer(math.inf, 8)),
        ("CPU=16", Offer(16, 0)),
    ],
)
def test_an_operator_declares_it(text: str, offer: Offer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(autoscaler.DECLARED, text)
    assert autoscaler.offer("nowhere:1") == offer


@pytest.mark.parametrize("text", ["8", "GPU=many", "TPU=1", "GPU=-1"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=rf"{autoscaler.DECLARED}=.*CPU=128,GPU=4"):
        autoscaler.declared(text)


def test_ray_up_leaves_it_on_the_head_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(autoscaler.DECLARED, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ray_bootstrap_config.yaml").write_text("""
max_workers: 6
head_node_type: head
available_node_types:
  head: {resources: {CPU: 0}, node_config: {}}
  cpu: {resources: {CPU: 16}, max_workers: 8}
  gpu: {resources: {CPU: 8, GPU: 2}, max_workers: 4}
""")
    assert autoscaler.offer("nowhere:1") == Offer(6 * 16 + 4 * 8, 8)


@pytest.mark.parametrize(
    ("status", "offer"), [(FIXED_STATUS, FIXED), (GROWING_STATUS, UNKNOWN), ("", FIXED)]
)
def test_a_cluster_without_types_of_nodes_is_fixed(
    status: str, offer: Offer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(autoscaler.DECLARED, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(autoscaler, "status", lambda _: status)
    autoscaler._is_fixed.cache_clear()
    assert autoscaler.offer("nowhere:1") == offer
    autoscaler._is_fixed.cache_clear()


def test_nodes_that_are_being_started_are_found() -> None:
    assert autoscaler.pending(GROWING_STATUS) == {"gpu, 1 launching", "10.0.0.7: cpu, setting-up"}
    assert autoscaler.pending(FIXED_STATUS) == set()
    assert autoscaler.pending("") == set()
