"""The Matroska file of one clip, each of whose frames stands for itself.

FFmpeg's own muxer refuses HuffYUV through PyAV, as Matroska knows the codec by its name in "Video
for Windows" alone. Elements and their numbers: RFC 9559; EBML: RFC 8794.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

KEY_FRAME = 0x80
TRACK = 1
VIDEO = 1
MAX_UNIT_NS = 10**9
"""FFmpeg holds the unit of time in 32 bits."""
MAX_TIME = 2**15 - 1
"""A block's time within its cluster has 16 bits, with a sign."""


@dataclass(frozen=True)
class Codec:
    """What a player has to know before the first frame."""

    fourcc: bytes
    height: int
    width: int
    bits_per_pixel: int
    extradata: bytes

    @property
    def private(self) -> bytes:
        """The BITMAPINFOHEADER of Windows, and what the codec adds to it."""
        size = 40 + len(self.extradata)
        pixels = self.width * self.height * self.bits_per_pixel // 8
        header = struct.pack(
            "<IiiHH4sIiiII",
            *(size, self.width, self.height, 1, self.bits_per_pixel, self.fourcc, pixels),
            *(0, 0, 0, 0),
        )
        return header + self.extradata


def matroska(frames: Sequence[bytes], fps: float, codec: Codec) -> bytes:
    """The file of these encoded frames, at `fps` frames a second."""
    frame_ns = round(1e9 / fps)
    unit_ns = min(frame_ns, MAX_UNIT_NS)
    times = [round(number * frame_ns / unit_ns) for number in range(len(frames))]
    ebml = (
        *(_uint(0x4286, 1), _uint(0x42F7, 1)),  # EBML's version, and that needed to read it
        *(_uint(0x42F2, 4), _uint(0x42F3, 8)),  # longest number, longest size
        *(_element(0x4282, b"matroska"), _uint(0x4287, 4), _uint(0x4285, 2)),  # DocType, versions
    )
    info = (
        _uint(0x2AD7B1, unit_ns),  # TimestampScale
        _element(0x4489, struct.pack(">d", len(frames) * frame_ns / unit_ns)),  # Duration
        *(_element(0x4D80, b"vqvdm"), _element(0x5741, b"vqvdm")),  # MuxingApp, WritingApp
    )
    picture = (_uint(0x9A, 2), _uint(0xB0, codec.width), _uint(0xBA, codec.height))  # progressive
    track = (
        *(_uint(0xD7, TRACK), _uint(0x73C5, TRACK), _uint(0x83, VIDEO)),  # number, UID, type
        _uint(0x9C, 0),  # FlagLacing
        _uint(0x23E383, frame_ns),  # DefaultDuration
        _element(0x86, b"V_MS/VFW/FOURCC"),  # CodecID
        _element(0x63A2, codec.private),  # CodecPrivate
        _element(0xE0, *picture),  # Video
    )
    clusters: dict[int, list[bytes]] = {}
    for time, frame in zip(times, frames, strict=True):
        number, since = divmod(time, MAX_TIME + 1)
        cluster = clusters.setdefault(number, [_uint(0xE7, time - since)])  # Timestamp
        head = struct.pack(">BhB", 0x80 | TRACK, since, KEY_FRAME)
        cluster.append(_element(0xA3, head, frame))  # SimpleBlock
    tracks = _element(0xAE, *track)  # TrackEntry
    segment = (
        *(_element(0x1549A966, *info), _element(0x1654AE6B, tracks)),  # Info, Tracks
        *(_element(0x1F43B675, *cluster) for cluster in clusters.values()),  # Cluster
    )
    return _element(0x1A45DFA3, *ebml) + _element(0x18538067, *segment)


def _element(number: int, *content: bytes) -> bytes:
    """An element: its number, the size of its content, its content."""
    data = b"".join(content)
    size = len(data) | 1 << 56  # In eight bytes, as the bit says.
    return number.to_bytes((number.bit_length() + 7) // 8, "big") + size.to_bytes(8, "big") + data


def _uint(number: int, value: int) -> bytes:
    return _element(number, value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big"))
