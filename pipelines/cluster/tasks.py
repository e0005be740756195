"""Rows of work, each done by one task, and done again where a disk was full.

Ray Data ends a whole job at the first error of a task, and tries only those again whose process
died. A full disk is a matter of one node, or of a moment: the task answers with it, the other
rows go on, and the row comes again after them, on nodes whose disks were not full.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray

from pipelines.cluster.join import set_up_ray_data
from pipelines.io.room import is_scratch_full
from vqvdm.errors import UserError

Row = dict[str, Any]
Work = Callable[[Row], Row]
Start = Callable[[list[Row], dict[str, Any]], Iterable[Row]]
"""Starts a graph on rows, with options that say where its tasks may run; yields its results."""

NODE_ID_LABEL_KEY = "ray.io/node-id"
"""A label that Ray gives to every node."""
ATTEMPTS = 3
"""How often a row may find a full disk, and graphs may do nothing; then the job ends."""
PAUSE_S = 5.0
"""Before rows are tried again; twice as long each time that nothing was done."""
FULL_IN_A_ROW = 8
"""After as many full disks a new graph is started: a node that fails fast draws many rows."""


def run(rows: list[Row], work: Work | type, **options: Any) -> Iterator[Row]:
    """The results of all rows in any order, one Ray task or call of an actor a row, by one graph of
    Ray Data; `UserError` if the disks of its nodes stay full.

    `work` is a function of a row, or a class whose objects are called with one; `options` are those
    of `Dataset.map`. Rows had better be numbers, which Ray passes on without pickling.
    """
    set_up_ray_data(ray.data.DataContext.get_current())
    attempt: Any = actor(work) if isinstance(work, type) else task(work)

    def start(rows: list[Row], where: dict[str, Any]) -> Iterable[Row]:
        graph = ray.data.from_items(rows, override_num_blocks=len(rows))
        return graph.map(attempt, **options, **where).iter_rows()

    return done(rows, start, needs="GPU" if options.get("num_gpus") else "CPU")


def task(work: Work) -> Work:
    """A function of a row, for `done`."""

    @functools.wraps(work)
    def attempt(row: Row) -> Row:
        return _attempt(work, row)

    return attempt


def actor(worker: type) -> type:
    """A class whose objects are called with a row, for `done`."""

    class Attempt(worker):
        def __call__(self, row: Row) -> Row:
            return _attempt(super().__call__, row)

    Attempt.__name__ = Attempt.__qualname__ = worker.__name__
    return Attempt


def _attempt(work: Work, row: Row) -> Row:
    try:
        return work(row) | {"row": row["row"]}
    except UserError as error:
        if not is_scratch_full(error):
            raise
        return {"row": row["row"], "full": str(error), "node": _node()}


def _node() -> str:
    return ray.get_runtime_context().get_node_id()


def done(rows: list[Row], start: Start, needs: str = "CPU") -> Iterator[Row]:
    """The results of all rows, in any order; `UserError` if the disks of their tasks stay full.

    `needs` is the resource that a node must have for the tasks to run there.
    """
    waiting = dict(enumerate(rows))
    failures, full_nodes = Counter[int](), set[str]()
    in_vain = 0
    while waiting:
        in_a_row, words, count = 0, "", len(waiting)
        # Rows that found a full disk come last.
        order = sorted(waiting, key=lambda number: failures[number])
        numbered = [waiting[number] | {"row": number} for number in order]
        for result in start(numbered, _elsewhere(full_nodes, needs)):
            number = result.pop("row")
            if "full" not in result:
                in_a_row = 0
                del waiting[number]
                yield result
                continue
            in_a_row, words = in_a_row + 1, result["full"]
            full_nodes.add(result["node"])
            failures[number] += 1
            if failures[number] == ATTEMPTS:
                raise UserError(words)
            if in_a_row == FULL_IN_A_ROW:
                break
        if waiting:
            in_vain = in_vain + 1 if len(waiting) == count else 0
            if in_vain == ATTEMPTS:
                raise UserError(words)
            print(f"{len(waiting)} tasks wait, and are tried again: {words}", flush=True)
            time.sleep(PAUSE_S * 2**in_vain)


def _elsewhere(full_nodes: set[str], needs: str) -> dict[str, Any]:
    """Options of tasks that keep them off these nodes, if there are others for them."""
    others = {
        node["NodeID"]
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get(needs) and node["NodeID"] not in full_nodes
    }
    if not full_nodes or not others:
        full_nodes.clear()  # Perhaps there is room again.
        return {}
    return {"label_selector": {NODE_ID_LABEL_KEY: f"!in({','.join(sorted(full_nodes))})"}}
