"""Rows whose task found a full disk are done again, after the others and elsewhere."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipelines.cluster import tasks
from pipelines.io import room
from vqvdm.errors import UserError

Row = dict[str, Any]


class Graph:
    """Stands for Ray Data: does rows one after the other, on nodes in turn."""

    def __init__(self, work: Callable[[Row], Row], nodes: str = "a") -> None:
        self.work, self.nodes = work, nodes
        self.rounds: list[list[int]] = []
        self.begun = Counter[int]()
        self.node = ""

    def start(self, rows: list[Row], where: dict[str, Any]) -> Iterator[Row]:
        self.rounds.append([row["n"] for row in rows])
        selector = where.get("label_selector", {}).get("ray.io/node-id", "!in()")
        nodes = [node for node in self.nodes if node not in selector.removeprefix("!in")]
        for index, row in enumerate(rows):
            self.node = nodes[index % len(nodes)]
            self.begun[row["n"]] += 1
            yield tasks.task(self.work)(row)


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it waited between graphs."""
    waited: list[float] = []
    monkeypatch.setattr(tasks.time, "sleep", waited.append)
    return waited


def run(graph: Graph, count: int, monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    nodes = [{"NodeID": n, "Alive": True, "Resources": {"CPU": 1}} for n in graph.nodes]
    monkeypatch.setattr(tasks.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(tasks, "_node", lambda: graph.node)
    return list(tasks.done([{"n": n} for n in range(count)], graph.start))


def fill_disk() -> None:
    with room.filling("/scratch", 7_000_000, room.SCRATCH_CURE):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_every_row_is_done_once(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    graph = Graph(lambda row: {"square": row["n"] ** 2})
    assert run(graph, 4, monkeypatch) == [{"square": n} for n in (0, 1, 4, 9)]
    assert (len(graph.rounds), waits) == (1, [])


def test_a_row_that_found_a_full_disk_comes_last(
    monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    def work(row: Row) -> Row:
        if row["n"] == 1 and graph.begun[1] < 3:
            fill_disk()
        return {"n": row["n"]}

    graph = Graph(work)
    assert [row["n"] for row in run(graph, 4, monkeypatch)] == [0, 2, 3, 1]
    assert graph.rounds == [[0, 1, 2, 3], [1], [1]]
    assert waits == [tasks.PAUSE_S, 2 * tasks.PAUSE_S]


def test_a_node_whose_disk_is_full_gets_no_more_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(row: Row) -> Row:
        if graph.node == "a":
            fill_disk()
        return {"n": row["n"]}

    graph = Graph(work, "ab")
    assert sorted(row["n"] for row in run(graph, 6, monkeypatch)) == list(range(6))
    assert len(graph.rounds) == 2 and max(graph.begun.values()) == 2


def test_disks_that_stay_full_end_the_job_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(row: Row) -> Row:
        if row["n"] > 1:
            fill_disk()
        return {"n": row["n"]}

    for nodes in ("a", "ab"):
        graph = Graph(work, nodes)
        with pytest.raises(UserError, match=r"^no room in /scratch.*7\.0 MB wanted.*TMPDIR"):
            run(graph, 1000, monkeypatch)
        # It neither tries all thousand nor gives up at once.
        assert tasks.ATTEMPTS <= sum(graph.begun.values()) < 40


@pytest.mark.parametrize("error", [UserError("another mistake"), OSError(errno.EIO, "broken")])
def test_other_errors_end_the_job_at_once(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(row: Row) -> Row:
        raise error

    graph = Graph(work)
    with pytest.raises(type(error)) as caught:
        run(graph, 4, monkeypatch)
    assert caught.value is error and graph.begun == {0: 1}


def test_a_full_root_ends_the_job_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same on every node."""

    def work(row: Row) -> Row:
        with room.filling("/root", 1, room.ROOT_CURE):
            raise OSError(errno.ENOSPC, "No space left on device")

    graph = Graph(work)
    with pytest.raises(UserError, match="choose another --root"):
        run(graph, 4, monkeypatch)
    assert graph.begun == {0: 1}


def test_actors_keep_their_name_and_state(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting:
        def __init__(self, start: int) -> None:
            self.count = start

        def __call__(self, row: Row) -> Row:
            self.count += 1
            if self.count == 11:
                fill_disk()
            return {"count": self.count}

    monkeypatch.setattr(tasks, "_node", lambda: "a")
    made = tasks.actor(Counting)
    assert made.__name__ == "Counting"
    worker = made(10)
    assert worker({"row": 3})["full"].startswith("no room in /scratch")
    assert worker({"row": 3}) == {"count": 12, "row": 3}
