"""What is to be played is H.264, which plays everywhere."""

import io

import av
import numpy as np

from pipelines.video import encoder as video


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
