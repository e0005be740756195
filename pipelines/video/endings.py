"""Detecting truncated files, in the formats whose readers do not report them."""

from __future__ import annotations

from pipelines.video.remote import opened, size_of

HEAD = 1 << 16
"""Bytes at the start of a file that contain its length."""
SEGMENT = b"\x18\x53\x80\x67"
"""Matroska's element that holds all of the video."""
FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
"""The object of an ASF header that gives the length of the file."""
TS_PACKETS = (188, 192, 204)


def ends_early(path: str, container: str) -> bool:
    """Whether a file ends early; `container` is FFmpeg's name for its format."""
    size = size_of(path)
    with opened(path) as file:
        head = file.read(HEAD)
        file.seek(max(0, size - 64))
        tail = file.read()
    if container == "mpegts":
        return all(size % packet for packet in TS_PACKETS)
    if container == "gif":
        return not tail.rstrip(b"\0\r\n").endswith(b";")
    if container == "matroska,webm":
        return size < _matroska_bytes(head)
    if container in ("asf", "asf_o"):
        return size < _asf_bytes(head)
    return False


def _matroska_bytes(head: bytes) -> int:
    """Length by the header; 0 if it is unknown. RFC 8794, section 4: sizes are integers whose
    leading zeros give the number of bytes that follow, and all ones mean unknown."""
    place = head.find(SEGMENT)
    if place < 0 or place + 12 > len(head) or not head[place + 4]:
        return 0
    first = head[place + 4]
    length = 9 - first.bit_length()
    bits = 7 * length
    size = int.from_bytes(head[place + 4 : place + 4 + length], "big") & ((1 << bits) - 1)
    return 0 if size == (1 << bits) - 1 else place + 4 + length + size


def _asf_bytes(head: bytes) -> int:
    """Length by the header; 0 in a recording of a broadcast."""
    place = head.find(FILE_PROPERTIES)
    return int.from_bytes(head[place + 40 : place + 48], "little") if place >= 0 else 0
