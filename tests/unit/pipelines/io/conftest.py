"""Places to store files in."""

from collections.abc import Iterator

import fsspec
import pytest


@pytest.fixture
def memory() -> Iterator[str]:
    """A folder on a file system that is not local."""
    yield "memory://house"
    files = fsspec.filesystem("memory")
    if files.exists("/house"):
        files.rm("/house", recursive=True)
