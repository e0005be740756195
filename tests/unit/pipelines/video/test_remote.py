"""Files that another process reads: the same bytes, frames and errors, a few blocks at a time."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.video import remote
from pipelines.video.decoder import read_frames
from pipelines.video.endings import ends_early
from pipelines.video.header import probe
from pipelines.video.reasons import VideoError
from pipelines.video.remote import answered_by, as_path, is_remote, opened, size_of
from tests.odd_videos import CODECS, KINDS, corrupt, cut, plain


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BLOCK", 1000)
    monkeypatch.setattr(remote, "BLOCKS", 3)
    monkeypatch.setattr(remote, "AHEAD", 1)


class Reads:
    """Reads a local file in place of a worker, and counts."""

    def __init__(self, path: Path) -> None:
        self.data, self.asked = path.read_bytes(), list[tuple[int, int]]()
        self.path = as_path(path.name, len(self.data))

    def __call__(self, start: int, size: int) -> bytes:
        self.asked.append((start, size))
        found = self.data[start : start + size]
        assert len(found) == size
        return found


def test_a_remote_file_is_read_like_another(blocks: None, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(random.Random(0).randbytes(12_345))
    reads, chance = Reads(path), random.Random(1)
    assert is_remote(reads.path) and not is_remote(str(path))
    assert size_of(reads.path) == size_of(str(path)) == 12_345
    with answered_by(reads), opened(reads.path) as there, opened(str(path)) as here:
        assert there.read() == here.read() and there.read(1) == b""
        for _ in range(300):
            place, size = chance.randrange(14_000), chance.randrange(4000)
            assert there.seek(place) == here.seek(place) == there.tell()
            assert there.read(size) == here.read(size)
        assert there.seek(-5, os.SEEK_END) == here.seek(-5, os.SEEK_END)
        assert there.read(9) == here.read(9)
        there.seek(10)
        assert there.seek(-3, os.SEEK_CUR) == 7
        with pytest.raises(OSError, match="before the file"):
            there.seek(-20_000, os.SEEK_END)
    wanted = [(start, min(1000, 12_345 - start)) for start, _ in reads.asked]
    assert reads.asked == wanted and not any(start % 1000 for start, _ in wanted)


def test_a_few_blocks_are_kept_and_none_of_the_file_before(blocks: None, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(5000))
    reads = Reads(path)
    for _ in range(2):
        reads.asked.clear()
        with answered_by(reads):
            for number in (0, 1, 0, 2, 0, 3, 0, 1):
                with opened(reads.path) as file:
                    file.seek(1000 * number)
                    file.read(10)
        assert [start // 1000 for start, _ in reads.asked] == [0, 1, 2, 3, 1]


def frames(path: str, start_s: float) -> Iterator[object]:
    try:
        yield probe(path)
        for picture in read_frames(path, 64, start_s):
            yield picture.time_s, picture.until_s, picture.fresh, picture.pixels.tobytes()
    except VideoError as error:
        yield error.reason, error.detail.replace(path, "")


@pytest.mark.parametrize("name", [*CODECS, "late.mkv"])
@pytest.mark.parametrize("state", ["whole", "damaged", "cut"])
def test_decoding_gives_the_same(name: str, state: str, tmp_path: Path) -> None:
    late = KINDS["begins at 5 s, by mkvmerge"]
    path = plain(tmp_path / name) if name in CODECS else late.make(tmp_path / name)
    if state != "whole":
        path = {"damaged": corrupt, "cut": lambda path: cut(path, 0.6)}[state](path)
    reads = Reads(path)
    with answered_by(reads):
        for start_s in (0.0, 0.7):
            assert list(frames(reads.path, start_s)) == list(frames(str(path), start_s))
        for form in ("mpegts", "gif", "matroska,webm", "asf"):
            assert ends_early(reads.path, form) == ends_early(str(path), form)
    assert reads.asked


def test_what_is_read_on_is_asked_for_in_larger_pieces(tmp_path: Path) -> None:
    """Also of two places in turn; what is read here and there is not."""
    block, path = remote.BLOCK, tmp_path / "a.bin"
    path.write_bytes(random.Random(0).randbytes(64 * block - 5))
    reads = Reads(path)
    with answered_by(reads), opened(reads.path) as file:
        for number in range(20):
            for first in (0, 32):
                file.seek((first + number) * block)
                assert file.read(block) == reads.data[file.tell() - block : file.tell()]
    sizes = [size // block for start, size in reads.asked if start < 32 * block]
    assert sizes == [1, 2, 4, 8, 8]
    assert [size // block for start, size in reads.asked if start >= 32 * block] == sizes
    reads.asked.clear()
    with answered_by(reads), opened(reads.path) as file:
        for number in (3, 60, 9, 63):
            file.seek(number * block)
            file.read(10)
    assert [size for _, size in reads.asked] == [block, block, block, block - 5]
