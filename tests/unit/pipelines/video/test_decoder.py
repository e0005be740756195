"""Users' videos: positions of frames in time and space, and reading a part.

`test_shard_videos` covers odd and damaged files.
"""

from pathlib import Path

import numpy as np
import pytest

from pipelines.video import encoder as video
from pipelines.video.decoder import Picture, read_frames, sample_luma
from pipelines.video.header import VideoInfo, images, probe
from pipelines.video.reasons import VideoError
from pipelines.video.shaper import Bars
from tests.odd_videos import CODECS, KEY_EVERY, image_folder, number_of, plain, write


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
    (tmp_path / "a.mp4").write_bytes(video.encode_lossless(frames, 8))
    [(time_s, frame, _)] = read_frames(str(tmp_path / "a.mp4"), 32)
    assert (time_s, frame.shape, frame.dtype) == (0.0, (32, 32, 3), np.uint8)
    assert np.abs(frame[10:22, 10:22].astype(int) - green).max() <= 3
    frame[6:26, 6:26] = 0
    assert frame.max() <= 3


@pytest.mark.parametrize("name", sorted(CODECS.keys() - {"a.gif"}))
def test_a_part_holds_the_frames_of_the_whole(name: str, tmp_path: Path) -> None:
    path = str(plain(tmp_path / name))
    whole = [p for p in read_frames(path, 64) if 0.5 <= p.time_s < 1.2]
    part = list(read_frames(path, 64, 0.5, 1.2))
    assert numbers(part) == numbers(whole) == list(range(13, 30))
    for a, b in zip(part, whole, strict=True):
        assert a.time_s == pytest.approx(b.time_s)
        np.testing.assert_array_equal(a.pixels, b.pixels)


def test_after_damage_the_next_key_frame_is_fresh(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.avi")
    data = bytearray(path.read_bytes())
    place = data.find(b"00dc", len(data) // 2)
    data[place + 8 : place + 200] = bytes(192)
    path.write_bytes(data)
    pictures = []
    with pytest.raises(VideoError, match="damaged"):
        for picture in read_frames(str(path), 64):
            pictures.append(picture)
    [fresh] = [picture for picture in pictures if picture.fresh]
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
