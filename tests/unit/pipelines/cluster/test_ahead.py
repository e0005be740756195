"""How many tasks are ahead of a worker, and what is reserved for it and for them."""

from __future__ import annotations

import pytest

from pipelines.cluster import ahead
from pipelines.cluster.ahead import Ahead, ahead_of, worker_cpus
from pipelines.cluster.devices import Devices

GB = 10**9


def gpus(workers: int) -> Devices:
    return Devices("cuda", workers, 1.0)


@pytest.mark.parametrize(
    ("workers", "cpus", "store_gb", "expected"),
    [
        (1, 16, 30, 16),
        (8, 192, 500, 24),
        (3, 16, 30, 6),
        (8, 4, 30, 1),
        (4, 64, 1, 3),  # 500 MB for 4 workers of 2 calls each, 20 MB a task.
        (8, 192, 0.1, 1),
    ],
)
def test_tasks_of_gpus_take_all_cores_that_the_object_store_has_room_for(
    workers: int, cpus: int, store_gb: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = {"CPU": cpus, "object_store_memory": store_gb * GB}
    monkeypatch.setattr(ahead.ray, "cluster_resources", lambda: resources)
    assert ahead_of(gpus(workers), 2, 20_000_000) == Ahead(expected, 1.0)


@pytest.mark.parametrize("cores", [1, 2, 9, 19, 192])
def test_workers_on_all_cores_of_a_node_leave_room_for_a_task_each(cores: int) -> None:
    tasks = ahead_of(Devices("cpu", cores), 1, 20_000_000)
    each = worker_cpus(Devices("cpu", cores))
    # One worker more than cores does not fit, so it takes nothing from the tasks.
    assert int(cores / each) == cores
    assert (cores - cores * each) / tasks.num_cpus == pytest.approx(cores)


def test_workers_on_gpus_leave_all_cores_to_their_tasks() -> None:
    assert worker_cpus(gpus(8)) == 0


def test_a_function_is_exported_once_for_all_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each shard that is encoded."""
    exported: list[object] = []

    class Remote:
        def __init__(self, work: object) -> None:
            exported.append(work)

        def options(self, num_cpus: float) -> Remote:
            return self

        def remote(self, item: int) -> int:
            return item**2

    def work(item: int) -> int:
        return item**2

    monkeypatch.setattr(ahead.ray, "remote", Remote)
    monkeypatch.setattr(ahead.ray, "get", lambda result: result)
    for _ in range(3):
        assert list(Ahead(2, 0.5).map(work, range(4))) == [0, 1, 4, 9]
    assert exported == [work]
