"""Our own videos: exact where they shall be, and playable everywhere else."""

import io

import av
import numpy as np

from pipelines.io import video
from pipelines.io.video import Frames


def noise(count: int) -> Frames:
    return np.random.default_rng(0).integers(0, 256, (count, 48, 64, 3), np.uint8)


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
