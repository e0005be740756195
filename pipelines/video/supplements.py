"""Supplemental enhancement information (SEI) in the packets of H.264 and H.265.

These units say something about a picture, such as its time code, or hold what a camera's maker put
there. Pictures are decoded without them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import av

START_CODE = re.compile(rb"\x00\x00\x00?\x01")


@dataclass(frozen=True)
class Supplements:
    """How a stream's packets hold units, and which of them are SEI."""

    length_size: int
    """Bytes of the length in front of each unit, as in MP4 and Matroska; 0 for start codes."""
    shift: int
    """Where the type lies in a unit's first byte."""
    kinds: frozenset[int]
    """Types of SEI."""

    def without(self, packet: av.Packet) -> av.Packet:
        """A packet without its SEI."""
        data = bytes(packet)
        kept = [unit for unit in self._units(data) if not self._is_sei(unit)]
        size = self.length_size
        prefixes = (len(unit).to_bytes(size, "big") if size else b"\0\0\0\1" for unit in kept)
        bare = av.Packet(
            b"".join(part for pair in zip(prefixes, kept, strict=True) for part in pair)
        )
        bare.pts, bare.dts, bare.time_base = packet.pts, packet.dts, packet.time_base
        bare.is_keyframe = packet.is_keyframe
        return bare

    def _units(self, data: bytes) -> Iterator[bytes]:
        if not self.length_size:
            yield from filter(None, START_CODE.split(data))
            return
        place = 0
        while place < len(data):
            begin = place + self.length_size
            place = begin + int.from_bytes(data[place:begin], "big")
            yield data[begin:place]

    def _is_sei(self, unit: bytes) -> bool:
        return bool(unit) and unit[0] >> self.shift & (63 if self.shift else 31) in self.kinds


def supplements_of(stream: av.VideoStream) -> Supplements | None:
    """How a stream holds SEI; None for a codec without them."""
    codec, header = stream.codec_context.name, stream.codec_context.extradata or b""
    # ISO/IEC 14496-15, 5.3.3.1 and 8.3.3.1; types: H.264 and H.265, table 7-1.
    has_lengths = header[:1] == b"\x01"
    if codec == "h264":
        return Supplements((header[4] & 3) + 1 if has_lengths else 0, 0, frozenset((6,)))
    if codec == "hevc":
        return Supplements((header[21] & 3) + 1 if has_lengths else 0, 1, frozenset((39, 40)))
    return None
