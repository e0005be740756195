"""Files that lie where only the worker reads: the decoding process asks it for parts of them.

The worker has the connections, the credentials and the retries, and its errors of storage are none
of the video. To whatever opens a video, such a file is a path like others.
"""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

BLOCK = 2**17
"""Bytes that are asked for at once where a file is read here and there, as its index is."""
AHEAD = 8
"""Blocks that are asked for at once at most, where one after the other is read."""
BLOCKS = 128
"""Blocks that are kept: headers lie at both ends of a file, and are read several times."""
STREAMS = 8
"""Places that are read on from, one in turn with the other: pictures and sound may lie apart."""
SCHEME = "worker://"

Read = Callable[[int, int], bytes]
"""Gives a part of a file: its first byte, and how many there are."""


@dataclass(frozen=True)
class Wanted:
    """What the decoding process asks the worker for, in place of a result."""

    start: int
    size: int


def as_path(name: str, size: int) -> str:
    """What stands for the path of a file of so many bytes; its suffix is that of the name."""
    return f"{SCHEME}{size}/{name}"


def is_remote(path: str) -> bool:
    return path.startswith(SCHEME)


def size_of(path: str) -> int:
    """The bytes of a file, local or not."""
    return int(path[len(SCHEME) :].partition("/")[0]) if is_remote(path) else os.path.getsize(path)


def opened(path: str) -> BinaryIO:
    """A file to read, local or not."""
    return io.BufferedReader(RemoteFile(path)) if is_remote(path) else open(path, "rb")


_blocks: OrderedDict[int, bytes] = OrderedDict()
"""Of the one file of a piece of work, by their number; those used last come last."""
_next: OrderedDict[int, int] = OrderedDict()
"""By the block that would follow what was asked for: how many blocks that were."""
_reads: list[Read] = []


@contextmanager
def answered_by(read: Read) -> Iterator[None]:
    """Within the context, remote files are read so; in it they are all one."""
    _reads.append(read)
    try:
        yield
    finally:
        _reads.pop()
        _blocks.clear()
        _next.clear()


class RemoteFile(io.RawIOBase):
    """A file whose parts the worker reads."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.name, self._size, self._place = path, size_of(path), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        if begin + offset < 0:
            raise OSError(f"{offset} lies before the file")
        self._place = begin + offset
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """What is there of one block."""
        number, start = divmod(self._place, BLOCK)
        if self._place >= self._size:
            return 0
        found = self._block(number)[start : start + len(buffer)]
        buffer[: len(found)] = found
        self._place += len(found)
        return len(found)

    def _block(self, number: int) -> bytes:
        if number not in _blocks:
            count = min(AHEAD, 2 * _next.pop(number, 0) or 1)
            start, end = number * BLOCK, min((number + count) * BLOCK, self._size)
            data = _reads[-1](start, end - start)
            for place in range(0, len(data), BLOCK):
                _blocks[number + place // BLOCK] = data[place : place + BLOCK]
            _next[number + count] = count
            for kept, most in ((_blocks, BLOCKS), (_next, STREAMS)):
                while len(kept) > most:
                    kept.popitem(last=False)
        _blocks.move_to_end(number)
        return _blocks[number]
