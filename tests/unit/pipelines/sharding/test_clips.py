"""Clips: where they start, what they show at another rate, and interruptions."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.sharding.clips import (
    Clip,
    ClipCutter,
    ClipSpec,
    CutRequest,
    Event,
    Outcome,
    cut_video,
)
from pipelines.sharding.settings import Limits
from pipelines.video.decoder import Picture
from pipelines.video.decoding_process import Deadline, DecodingProcess

SPEC = ClipSpec(frames=4, size=2, stride=4, rates=(None,), classes=())


def picture(number: int, time_s: float, fresh: bool = False, length_s: float = 1 / 16) -> Picture:
    return Picture(time_s, time_s + length_s, np.full((2, 2, 3), number, np.uint8), fresh)


def cut(cutter: ClipCutter, pictures: list[Picture]) -> list[Clip]:
    return [clip for picture in pictures for clip in cutter.push(picture)]


def numbers(clips: list[Clip]) -> list[list[int]]:
    return [clip.frames_THWC[:, 0, 0, 0].tolist() for clip in clips]


@pytest.mark.parametrize(
    ("stride", "rate", "starts"),
    [
        (3, None, [0, 3, 6, 9, 12]),
        (4, None, [0, 4, 8, 12]),
        (6, None, [0, 6, 12]),
        (2, 8.0, [0, 2, 4]),
        (12, 32.0, [0, 12, 24]),
    ],
)
def test_where_clips_start(stride: int, rate: float | None, starts: list[int]) -> None:
    cutter = ClipCutter(replace(SPEC, stride=stride), rate, 16.0)
    clips = cut(cutter, [picture(n, n / 16) for n in range(16)])
    assert [clip.start_frame for clip in clips] == starts
    for clip in clips:
        assert clip.fps == (rate or 16.0)
        assert clip.start_s == pytest.approx(clip.start_frame / clip.fps)
        shown = (clip.start_frame + np.arange(4)) * 16 // clip.fps
        np.testing.assert_array_equal(clip.frames_THWC[:, 0, 0, 0], shown)


@pytest.mark.parametrize("stride", [4, 6])
@pytest.mark.parametrize("rate", [None, 8.0])
def test_no_clip_straddles_an_interruption(rate: float | None, stride: int) -> None:
    step = 2 if rate else 1
    pictures = [picture(n, n / 16, fresh=n == 9 * step) for n in range(20 * step)]
    cutter = ClipCutter(replace(SPEC, stride=stride), rate, 16.0)
    expected = [[0, 1, 2, 3], [4, 5, 6, 7], [9, 10, 11, 12], [13, 14, 15, 16]]
    if stride == 6:
        expected = [[0, 1, 2, 3], [9, 10, 11, 12], [15, 16, 17, 18]]
    clips = cut(cutter, pictures)
    assert numbers(clips) == [[n * step for n in clip] for clip in expected]
    assert [clip.start_s for clip in clips] == [clip[0] * step / 16 for clip in expected]
    assert [clip.start_frame for clip in clips] == [clip[0] for clip in expected]


@pytest.mark.parametrize("rate", [None, 16.0])
def test_nothing_is_shown_while_frames_are_lost(rate: float | None) -> None:
    """Three frames before a gap of a second, and five after it."""
    pictures = [picture(n, n / 16) for n in range(3)]
    pictures += [picture(n, 1 + n / 16, fresh=n == 3) for n in range(3, 8)]
    [clip] = cut(ClipCutter(SPEC, rate, 16.0), pictures)
    assert numbers([clip]) == [[3, 4, 5, 6]]
    assert clip.start_s == 1 + 3 / 16


def test_clips_of_a_part_keep_the_time_of_the_whole() -> None:
    pictures = [picture(n, n / 16) for n in range(5, 21)]
    clips = cut(ClipCutter(SPEC, 8.0, 16.0, 5 / 16), pictures)
    assert numbers(clips) == [[5, 7, 9, 11], [13, 15, 17, 19]]
    assert [clip.start_s for clip in clips] == [5 / 16, 13 / 16]
    assert [clip.start_frame for clip in clips] == [0, 4]


def test_each_clip_of_a_variable_rate_has_its_own() -> None:
    times_s = [n / 30 for n in range(8)] + [8 / 30 + n / 10 for n in range(8)]
    pictures = [picture(n, time_s) for n, time_s in enumerate(times_s)]
    clips = cut(ClipCutter(SPEC, None, 16.3), pictures)
    assert [clip.fps for clip in clips] == [30.0, 30.0, 10.0, 10.0]
    assert numbers(clips) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]


def test_a_rate_near_the_average_is_a_clips_own_too() -> None:
    """30 frames a second, then 24, as phones record where light fails: 27 on average."""
    times_s = [round(n / 30, 3) for n in range(9)]
    times_s += [round(times_s[-1] + n / 24, 3) for n in range(1, 9)]
    pictures = [picture(n, time_s) for n, time_s in enumerate(times_s)]
    clips = cut(ClipCutter(replace(SPEC, frames=8, stride=8), None, 26.7), pictures)
    assert [clip.fps for clip in clips] == pytest.approx([30.0, 24.0], rel=0.005)


@pytest.mark.parametrize("fps", [30.0, 30000 / 1001, 25.0, 60.0])
def test_rounded_time_stamps_are_no_variable_rate(fps: float) -> None:
    pictures = [picture(n, round(n / fps, 3)) for n in range(16)]
    assert {clip.fps for clip in cut(ClipCutter(SPEC, None, fps), pictures)} == {fps}


def test_what_is_displayed_already_at_the_start_serves_resampling_only() -> None:
    pictures = [picture(1, 0.4, length_s=0.6), *[picture(n, n / 2, length_s=0.5) for n in (2, 3)]]
    [clip] = cut(ClipCutter(SPEC, 4.0, 2.0, start_s=0.5), pictures)
    assert (numbers([clip]), clip.start_s) == ([[1, 1, 2, 2]], 0.5)
    [clip] = cut(ClipCutter(replace(SPEC, frames=2, stride=2), None, 2.0, start_s=0.5), pictures)
    assert (numbers([clip]), clip.start_s, clip.start_frame) == ([[2, 3]], 1.0, 0)


def png(path: Path, side: int) -> Path:
    """A black square of one bit a pixel."""
    rows = zlib.compress(bytes(1 + (side + 7) // 8) * side, 9)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", rows)]
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in [*parts, (b"IEND", b"")]:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        data += struct.pack(">I", len(content)) + name + content + checksum
    path.write_bytes(data)
    return path


def gif(path: Path, side: int, frames: int) -> Path:
    """Frames of one pixel on a square, a hundredth of a second each."""
    frame = b"\x21\xf9\x04\0\x01\0\0\0\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0)
    frame += b"\x02\x02\x44\x01\0"
    header = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    path.write_bytes(header + frame * frames + b";")
    return path


def image_folder(folder: Path) -> Path:
    """A folder of frames, of which a later one is a bomb."""
    folder.mkdir()
    for number, side in enumerate((64, 64, 64, 30_000)):
        png(folder / f"{number}.png", side)
    return folder


@pytest.fixture(scope="module")
def process() -> Iterator[DecodingProcess]:
    process = DecodingProcess(max_memory_gb=2.0)
    yield process
    process.close()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("picture.png", "too_many_pixels"),
        ("large.gif", "too_many_pixels"),
        ("deep.gif", "too_long"),
        ("folder", "damaged"),
    ],
)
def test_a_bomb_costs_neither_memory_nor_time(
    name: str, reason: str, tmp_path: Path, process: DecodingProcess
) -> None:
    path = tmp_path / name
    match name:
        case "picture.png":
            png(path, 30_000)  # 100 kB on disk
        case "large.gif":
            gif(path, 65_535, 1)
        case "deep.gif":
            gif(path, 64, 100_000)
        case _:
            image_folder(path)
    spec = ClipSpec(4, 32, 4, (None,), ("a",), limits=Limits(max_duration_s=60))
    request = CutRequest(str(path), spec, frames_fps=8.0 if name == "folder" else None)
    events: list[Event] = list(process.run(cut_video, request, Deadline(60.0)))
    outcome = events[-1]
    assert isinstance(outcome, Outcome) and outcome.error
    assert outcome.error.reason == reason
    [peak_kb] = process.run(own_peak_kb, None, Deadline(60.0))
    assert peak_kb < 300_000


def own_peak_kb(_: object) -> Iterator[int]:
    """The most memory that the process has had."""
    status = Path("/proc/self/status").read_text()
    yield next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
