"""Local files of H.264, as videos of users."""

from __future__ import annotations

from pathlib import Path

from pipelines.video import Frames
from pipelines.video.encoder import encode_h264


def write_file(path: Path, frames_THWC: Frames, fps: float) -> None:
    """Write frames uint8 (T, H, W, 3) as an MP4."""
    path.write_bytes(encode_h264(frames_THWC, fps))
