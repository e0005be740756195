"""Many small files read at a time: an object store is slow to answer, but answers many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

READERS = 32
"""Threads that read."""
WAITING = 8 * READERS
"""Results that wait for whoever takes them, at most: there may be any number of files."""


def read_all(read: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """What `read` gives for each item, in order."""
    left = iter(items)
    with ThreadPoolExecutor(READERS) as pool:
        while some := list(islice(left, WAITING)):
            yield from pool.map(read, some)
