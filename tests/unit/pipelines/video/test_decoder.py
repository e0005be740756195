"""Users' videos: positions of frames in time and space, and reading a part.

`test_shard_videos` covers odd and damaged files.
"""

import math
import struct
from pathlib import Path

import numpy as np
import pytest

from pipelines.video.decoder import Picture, _snapped, _Timed, read_frames
from pipelines.video.header import VideoInfo, images, probe
from pipelines.video.lossless import encode_lossless
from pipelines.video.luma import sample_luma
from pipelines.video.reasons import VideoError
from pipelines.video.shaper import Bars
from tests.odd_videos import (
    CODECS,
    COUNT,
    FPS,
    KEY_EVERY,
    REORDERED,
    image_folder,
    number_of,
    patch,
    plain,
    write,
)


def numbers(pictures: list[Picture]) -> list[int]:
    return [number_of(picture.pixels) for picture in pictures]


def test_the_header_and_the_frames_agree(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.avi", "mpeg4", count=8))
    assert probe(path) == VideoInfo(8 / 25, 25.0, 96, 64, "mpeg4")
    pictures = list(read_frames(path, 64))
    assert [picture.time_s for picture in pictures] == pytest.approx([n / 25 for n in range(8)])
    assert numbers(pictures) == list(range(8))
    assert not any(picture.fresh for picture in pictures)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (96, 64)])
def test_the_centre_square_is_cut_out(tmp_path: Path, height: int, width: int) -> None:
    green, top, left = (0, 200, 0), height // 2 - 16, width // 2 - 16
    frames = np.zeros((1, height, width, 3), np.uint8)
    frames[:, top : top + 32, left : left + 32] = green
    (tmp_path / "a.mp4").write_bytes(encode_lossless(frames, 8))
    [(time_s, until_s, frame, _)] = read_frames(str(tmp_path / "a.mp4"), 32)
    assert (time_s, until_s) == (0.0, 1 / 8)
    assert (frame.shape, frame.dtype) == ((32, 32, 3), np.uint8)
    assert np.abs(frame[10:22, 10:22].astype(int) - green).max() <= 3
    frame[6:26, 6:26] = 0
    assert frame.max() <= 3


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(CODECS.keys() | REORDERED.keys()))
def test_parts_hold_the_frames_of_the_whole(name: str, tmp_path: Path) -> None:
    """At exact times of frames, and between them."""
    path = tmp_path / name
    if name in REORDERED:
        codec, options = REORDERED[name]
        write(path, codec, **options)
    else:
        plain(path)
    whole = list(read_frames(str(path), 64))
    assert numbers(whole) == list(range(COUNT))
    assert [p.time_s for p in whole] == pytest.approx([n / FPS for n in range(COUNT)], abs=1e-3)
    for first in range(COUNT - 3):
        part = list(read_frames(str(path), 64, first / FPS, (first + 3) / FPS))
        assert numbers(part) == [first, first + 1, first + 2]
        for a, b in zip(part, whole[first:], strict=False):
            assert (a.time_s, a.until_s) == pytest.approx((b.time_s, b.until_s), abs=1e-3)
            np.testing.assert_array_equal(a.pixels, b.pixels)
    between = list(read_frames(str(path), 64, 0.34, 0.9))
    assert numbers(between) == list(range(8, 23))
    assert [p.time_s >= 0.34 for p in between] == [False] + 14 * [True]


def test_frames_are_not_drawn_together_by_a_header_that_gives_a_slow_rate() -> None:
    slow = [_Timed(n / 25, None, 1 / 25, half_frame_s=0.5) for n in range(20)]
    times = [one.time_s for one in _snapped((one for one in slow), 0.4, math.inf)]
    assert times == pytest.approx([n / 25 for n in range(20)])


def test_a_negative_length_is_none(tmp_path: Path) -> None:
    """The duration of a WebM, a number of eight bytes after 0x4489."""
    path = write(tmp_path / "a.mkv", "libx264")
    patch(path, b"\x44\x89\x88", struct.pack(">d", -5e9), 3)
    assert probe(str(path)).duration_s is None


def test_a_codec_that_is_not_known(tmp_path: Path) -> None:
    path = patch(write(tmp_path / "a.mp4", "libx264"), b"avc1", b"zzzz")
    with pytest.raises(VideoError, match="unknown_codec"):
        probe(str(path))


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.ts"])
@pytest.mark.parametrize("place", [0.3, 0.6])
def test_damage_counts_where_it_is(name: str, place: float, tmp_path: Path) -> None:
    """Parts before it and after it are whole; those that lose frames say so."""
    path = plain(tmp_path / name)
    data = bytearray(path.read_bytes())
    start = int(len(data) * place)
    data[start : start + 200] = bytes(200)
    path.write_bytes(data)
    kept = []
    with pytest.raises(VideoError) as whole:
        for one in read_frames(str(path), 64):
            kept.append(number_of(one.pixels))
    assert "damaged" in str(whole.value) and len(kept) < COUNT
    lost = set(range(COUNT)) - set(kept)
    for first in range(0, COUNT - 4, 2):
        wanted = set(range(first, first + 4))
        found, error = set(), None
        try:
            for one in read_frames(str(path), 64, first / FPS, (first + 4) / FPS):
                if one.time_s >= first / FPS:
                    found.add(number_of(one.pixels))
        except VideoError as raised:
            error = raised
        assert found == wanted - lost
        assert (error is not None) == bool(wanted & lost), (first, error)


def test_recordings_that_were_joined(tmp_path: Path) -> None:
    """The time jumps back, and the size changes: both are read, and no clip holds both."""
    write(tmp_path / "a.ts", "mpeg2video", count=20)
    write(tmp_path / "b.ts", "mpeg2video", count=20, first=20, size=(128, 192))
    joined = (tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes()
    (tmp_path / "c.ts").write_bytes(joined)
    pictures = []
    try:
        for one in read_frames(str(tmp_path / "c.ts"), 64):
            pictures.append(one)
    except VideoError as error:  # A counter of its packets shows that they were joined.
        assert "the time jumps back by" in error.detail
        assert error.detail.endswith("s and the size becomes 192x128")
    found = numbers(pictures)
    assert set(range(40)) - set(found) <= {16, 17, 18, 19}
    assert found == sorted(found)
    [fresh] = [number_of(one.pixels) for one in pictures if one.fresh]
    assert fresh == 20
    steps = np.diff([one.time_s for one in pictures])
    assert steps == pytest.approx(np.full(len(steps), 1 / FPS), abs=1e-3)


def test_after_damage_the_next_key_frame_is_fresh(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.avi")
    data = bytearray(path.read_bytes())
    place = data.find(b"00dc", len(data) // 2)
    data[place + 8 : place + 200] = bytes(192)
    path.write_bytes(data)
    pictures = []
    with pytest.raises(VideoError) as error:
        for picture in read_frames(str(path), 64):
            pictures.append(picture)
    [fresh] = [picture for picture in pictures if picture.fresh]
    until_s = pictures[pictures.index(fresh) - 1].until_s
    lost = f"after {until_s:.2f} s, up to {fresh.time_s:.2f} s"
    assert error.value.detail == f"frames do not decode {lost}"
    assert number_of(fresh.pixels) % KEY_EVERY == 0
    before = [p for p in pictures if p.time_s < fresh.time_s]
    assert numbers(before) == list(range(len(before)))
    assert len(before) < number_of(fresh.pixels)


def test_bars_are_cut_off(tmp_path: Path) -> None:
    plane = np.zeros((96, 160, 3), np.uint8)
    plane[16:80, 32:128] = 255
    path = str(write(tmp_path / "a.mkv", "ffv1", count=2, size=(96, 160), frames=[plane] * 2))
    bars = Bars(32, 16, 32, 16)
    for picture in read_frames(path, 32, bars=bars):
        assert picture.pixels.min() > 250
    assert min(picture.pixels.min() for picture in read_frames(path, 32)) < 5


def test_images_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = str(image_folder(tmp_path / "a", 12))
    assert [file.name for file in images(folder)] == [f"frame_{n}.jpg" for n in range(12)]
    pictures = list(read_frames(folder, 64, frames_fps=10.0))
    assert numbers(pictures) == list(range(12))
    assert [p.time_s for p in pictures] == pytest.approx([n / 10 for n in range(12)])
    part = list(read_frames(folder, 64, 0.5, 0.8, frames_fps=10.0))
    assert numbers(part) == [5, 6, 7]
    assert probe(folder, 10.0) == VideoInfo(1.2, 10.0, 96, 64, "images")


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "b.ts"])
def test_samples_are_spread_over_a_video(name: str, tmp_path: Path) -> None:
    path = str(plain(tmp_path / name))
    luma = list(sample_luma(path, probe(path), 4))
    squares = [np.repeat(frame[:, 16:80, None], 3, axis=-1) for frame in luma]
    assert [number_of(square) for square in squares] == pytest.approx([5, 15, 25, 35], abs=1)
