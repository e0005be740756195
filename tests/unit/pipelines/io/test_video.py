"""Video in and out: exact frames, steady rates, and damage that is noticed."""

import io
from pathlib import Path

import av
import numpy as np
import pytest

from pipelines.io import video
from pipelines.io.video import Frames, Resampler, VideoError, VideoInfo


def noise(count: int) -> Frames:
    return np.random.default_rng(0).integers(0, 256, (count, 48, 64, 3), np.uint8)


def write(path: Path, codec: str, frames: Frames, **options: str) -> str:
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=16)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.thread_count = "yuv420p", 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


def cut(path: str) -> str:
    """Take the last two fifths of a file away."""
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: len(data) * 3 // 5])
    return path


def test_lossless_is_exact() -> None:
    frames = noise(5)
    np.testing.assert_array_equal(video.decode_clip(video.encode_lossless(frames, 16)), frames)


def test_h264_plays_everywhere() -> None:
    frames = np.full((9, 32, 48, 3), (200, 40, 90), np.uint8)
    data = video.encode_h264(frames, 12.5)
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 12.5
    decoded = video.decode_clip(data)
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).max() < 8


def test_the_header_and_the_frames_agree(tmp_path: Path) -> None:
    path = write(tmp_path / "a.avi", "mpeg4", noise(8))
    assert video.probe(path) == VideoInfo(0.5, 16.0, 64, 48, "mpeg4")
    times = [time for time, _ in video.read_frames(path, 32)]
    assert times == pytest.approx([index / 16 for index in range(8)])


@pytest.mark.parametrize(("height", "width"), [(64, 96), (96, 64)])
def test_the_centre_square_is_cut_out(tmp_path: Path, height: int, width: int) -> None:
    green, top, left = (0, 200, 0), height // 2 - 16, width // 2 - 16
    frames = np.zeros((1, height, width, 3), np.uint8)
    frames[:, top : top + 32, left : left + 32] = green
    (tmp_path / "a.mp4").write_bytes(video.encode_lossless(frames, 8))
    [(time, frame)] = video.read_frames(str(tmp_path / "a.mp4"), 32)
    assert (time, frame.shape, frame.dtype) == (0.0, (32, 32, 3), np.uint8)
    assert np.abs(frame[10:22, 10:22].astype(int) - green).max() <= 3
    frame[6:26, 6:26] = 0
    assert frame.max() <= 3


@pytest.mark.parametrize(
    ("native", "fps", "count", "expected"),
    [
        (16, 8, 16, [0, 2, 4, 6, 8, 10, 12, 14]),
        (16, 8, 15, [0, 2, 4, 6, 8, 10, 12, 14]),
        (24, 8, 12, [0, 3, 6, 9]),
        (16, 16, 4, [0, 1, 2, 3]),
        (8, 16, 3, [0, 0, 1, 1, 2, 2]),
        (10, 4, 10, [0, 2, 5, 7]),
    ],
)
def test_resampling_keeps_what_is_on_the_screen(
    native: float, fps: float, count: int, expected: list[int]
) -> None:
    resampler, shown = Resampler(fps), list[Frames]()
    for index in range(count):
        shown += resampler.push(index / native, np.full((1, 1, 3), index, np.uint8))
    shown += resampler.finish()
    assert [int(frame.max()) for frame in shown] == expected


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "libx264"), ("mp4", "mpeg4"), ("avi", "ffv1"), ("avi", "mpeg4")]
)
def test_a_truncated_file_is_noticed(tmp_path: Path, suffix: str, codec: str) -> None:
    options = {"movflags": "+faststart"} if suffix == "mp4" else {}
    path = write(tmp_path / f"a.{suffix}", codec, noise(40), **options)
    whole = [frame for _, frame in video.read_frames(path, 32)]
    good = list[Frames]()
    with pytest.raises(VideoError) as caught:
        for _, frame in video.read_frames(cut(path), 32):
            good.append(frame)
    assert caught.value.reason == "damaged"
    assert 10 < len(good) < 30
    np.testing.assert_array_equal(good, whole[: len(good)])


def test_text_and_a_file_without_its_index_are_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("This is a shopping list.\n" * 50)
    for path in (str(tmp_path / "a.mp4"), cut(write(tmp_path / "b.mp4", "libx264", noise(10)))):
        with pytest.raises(VideoError) as caught:
            video.probe(path)
        assert caught.value.reason == "unreadable"


def test_sound_alone_has_no_pictures(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), "fltp", "mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError) as caught:
        video.probe(str(tmp_path / "a.mp4"))
    assert caught.value.reason == "no_video_stream"
