"""What a video looks like, in a few bits that survive another size, rate or codec."""

from __future__ import annotations

from collections.abc import Iterator

import imagehash
import numpy as np
from PIL import Image

from pipelines.io.cutting import CutRequest, check_header
from pipelines.io.reasons import VideoError
from pipelines.io.video.decoder import sample_luma
from pipelines.io.video.header import probe

FRAMES = 8
"""Frames spread over a video, each of which is hashed to 64 bits."""


def look_at(request: CutRequest) -> Iterator[bytes]:
    """The perceptual hash of a video, once: 8 bytes a frame; nothing where it cannot be read.

    A difference hash compares neighbouring pixels of the frame shrunk to 9x8, in integers: it is
    the same on any processor.
    """
    try:
        info = probe(request.path, request.frames_fps)
        check_header(info, request)
        span_s = (request.start_s, request.end_s)
        lumas = sample_luma(request.path, info, FRAMES, request.frames_fps, span_s)
        hashes = [np.packbits(imagehash.dhash(Image.fromarray(luma)).hash) for luma in lumas]
    except VideoError:
        return  # Its account will tell, once it is cut.
    if hashes:
        # A video that does not tell its length is known by its first frame.
        yield b"".join(hash.tobytes() for hash in (hashes * FRAMES)[:FRAMES])
