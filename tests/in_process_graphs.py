"""Ray Data's graphs in this process, row by row, as if on one node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray.data

from pipelines.cluster import tasks


class Graph:
    """Stands for a dataset of rows, and for what `map` makes of it."""

    def __init__(self, rows: list[dict], override_num_blocks: int) -> None:
        assert override_num_blocks == len(rows)
        self._rows = rows

    def map(self, work: Any, fn_constructor_args: tuple[Any, ...] = (), **options: Any) -> Graph:
        self._work = work(*fn_constructor_args) if isinstance(work, type) else work
        return self

    def iter_rows(self) -> Iterator[dict]:
        return map(self._work, self._rows)


def run_graphs_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster is joined, and nothing is waited for before rows are tried again."""
    monkeypatch.setattr(ray.data, "from_items", Graph)
    monkeypatch.setattr(tasks, "_node", lambda: "here")
    monkeypatch.setattr(tasks.ray, "nodes", list)
    monkeypatch.setattr(tasks, "PAUSE_S", 0.0)
