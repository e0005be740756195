"""This project's own videos: lossless clips are exact, and H.264 is playable everywhere."""

import io

import av
import numpy as np
import pytest

from pipelines.video import Frames
from pipelines.video import encoder as video


def noise(count: int) -> Frames:
    return np.random.default_rng(0).integers(0, 256, (count, 48, 64, 3), np.uint8)


def test_lossless_is_exact() -> None:
    frames = noise(5)
    np.testing.assert_array_equal(video.decode_clip(video.encode_lossless(frames, 16)), frames)


def test_clips_of_one_encoder_are_exact_and_each_stands_alone() -> None:
    frames = noise(12)
    clips = [frames[:5], frames[3:8], frames[11:], frames[:5]]
    encoder = video.LosslessEncoder(48, 64, 29.97)
    files = [encoder.encode(clip) for clip in clips]
    for file, clip in zip(files, clips, strict=True):
        np.testing.assert_array_equal(video.decode_clip(file), clip)
        with av.open(io.BytesIO(file)) as container:
            stream = container.streams.video[0]
            assert float(stream.average_rate or 0) == pytest.approx(29.97, 1e-4)
            packets = [packet for packet in container.demux(stream) if packet.size]
        assert [packet.is_keyframe for packet in packets] == [True] + [False] * (len(clip) - 1)
        assert packets[0].pts == packets[0].dts == 0
    again = video.LosslessEncoder(48, 64, 29.97)
    assert [again.encode(clip) for clip in clips] == files


def test_a_clip_that_is_a_slice_of_something_larger_is_exact() -> None:
    frames = noise(6)[::2, :, 8:40]
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
