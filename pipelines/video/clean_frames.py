"""Decoding one stream to the frames that are intact, from its start or from any time on.

After damage the decoder restarts at the next key frame. What precedes a key frame in time but
follows it in the file may depend on frames before it: where decoding starts at that key frame,
this is left out, and is no damage.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import NamedTuple

import av

from pipelines.video.endings import ends_early
from pipelines.video.header import ffmpeg_errors, raise_if_starved, seconds
from pipelines.video.reasons import VideoError
from pipelines.video.supplements import Supplements, supplements_of

INDEXED = frozenset(("mov", "matroska", "avi"))
"""Formats with an index of their key frames."""

BACK_S = (0.0, 1.0, 10.0)
"""How long before a time key frames are looked for: an index may count in decoding order, and
from a key frame without a complete picture frames become intact one by one."""


class CleanFrame(NamedTuple):
    """An intact frame, and why frames right before it are lost; after the last one without it."""

    frame: av.VideoFrame | None
    lost: str

    stamp_s: float | None = None
    """When it is displayed, by the clock of the file; None if that does not say it."""


CleanFrames = Generator[CleanFrame, None, None]


def clean_frames(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    path: str,
    sought: bool = False,
) -> CleanFrames:
    """Frames in order of time, from where the container stands; it may have been sought.

    A frame is held back until the next one is intact: the one before a lost frame may be damaged
    without an error.
    """
    held: CleanFrame | None = None
    lost, waiting, restarted = "", False, sought
    started_at: int | None = None
    with ffmpeg_errors() as messages:
        seen, decoder = _DamageSeen(container, messages), _Decoder(stream)
        for packet in _packets(container, stream, seen):
            frames, damage = [], seen.since_last()
            if packet is None or packet.is_corrupt:
                damage, packet = damage or "packets are lost", None
            waiting = waiting or bool(damage)
            if packet is not None and packet.is_keyframe and packet.size:
                if waiting:
                    decoder.restart()
                    waiting, restarted, started_at = False, True, packet.pts
                elif started_at is None:
                    started_at = packet.pts
            if packet is not None and not waiting:
                found = decoder.frames_of(packet)
                if found is None:
                    broken = not _precedes(packet.pts, started_at)
                else:
                    frames, broken = found, any(frame.is_corrupt for frame in found)
                if broken:
                    frames, damage, waiting = [], damage or "frames do not decode", True
            if damage:
                held, lost = None, lost or damage
            at_end = packet is not None and not packet.size
            if at_end and ends_early(path, container.format.name):
                # The frames left in the decoder have gaps: they are not stored in their order.
                lost = lost or "the file ends early"
                frames, held = [], None
            for frame in frames:
                if restarted and _precedes(frame.pts, started_at):
                    continue
                if held:
                    yield held
                held, lost = CleanFrame(frame, lost, _stamp_s(frame, container)), ""
    if held:
        yield held
    if lost := lost or seen.ending:
        yield CleanFrame(None, lost)


def _stamp_s(frame: av.VideoFrame, container: av.container.InputContainer) -> float | None:
    if container.format.name != "avi" or not frame.time_base:
        return frame.time
    # AVI numbers its frames in the order of decoding; so does the decoder those that come out.
    return None if frame.dts is None else seconds(frame.dts, frame.time_base)


def _precedes(pts: int | None, started_at: int | None) -> bool:
    """Whether a time lies before the key frame at which decoding started."""
    return pts is not None and started_at is not None and pts < started_at


class _Decoder:
    """Decodes the packets of a stream.

    A supplement of a picture may be malformed where all pictures are sound: cameras write their
    own. A decoder that reports damage refuses such packets too, so the first packet after a restart
    is tried again without any, and if that helps, all others go without.
    """

    def __init__(self, stream: av.VideoStream) -> None:
        self._context = stream.codec_context
        self._supplements = supplements_of(stream)
        self._removed: Supplements | None = None
        self._fresh = True

    def restart(self) -> None:
        """Forget all packets so far."""
        self._context.flush_buffers()
        self._fresh = True

    def frames_of(self, packet: av.Packet) -> list[av.VideoFrame] | None:
        """The frames that a packet completes; None if it is damaged."""
        fresh, self._fresh = self._fresh, False
        frames = self._decoded(packet)
        # Only at the start: what a refused packet leaves in the decoder hides its damage.
        if frames is None and fresh and packet.size and not self._removed:
            self._context.flush_buffers()
            self._removed = self._supplements
            frames = self._decoded(packet) if self._removed else None
            if frames is None:
                self._removed = None
        return frames

    def _decoded(self, packet: av.Packet) -> list[av.VideoFrame] | None:
        if self._removed and packet.size:
            packet = self._removed.without(packet)
        try:
            return self._context.decode(packet)
        except (av.FFmpegError, EOFError) as error:
            raise_if_starved(error)
            return None


class _DamageSeen:
    """Detects, in a container's log messages, damage that it repairs silently."""

    def __init__(self, container: av.container.InputContainer, messages: list) -> None:
        self.name, self.messages, self.ending = container.format.name, messages, ""

    def since_last(self) -> str:
        damaged = any(name == self.name for _, name, _ in self.messages)
        self.messages.clear()
        return "the container is damaged" if damaged else ""


def _packets(
    container: av.container.InputContainer, stream: av.VideoStream, seen: _DamageSeen
) -> Iterator[av.Packet | None]:
    """The packets of a stream; None where the rest of the file cannot be read."""
    try:
        yield from container.demux(stream)
    except av.FFmpegError as error:
        raise_if_starved(error)
        seen.ending = "the rest of the file cannot be read"
        yield None


def has_index(container: av.container.InputContainer) -> bool:
    """Whether key frames can be sought exactly; in other formats one may go past the time."""
    return container.format.name.split(",")[0] in INDEXED


def seek(container: av.container.InputContainer, stream: av.VideoStream, time_s: float) -> None:
    """Go to the last key frame before a time stamp, or the first one."""
    if not stream.time_base:
        return
    place = max(int(time_s / stream.time_base), stream.start_time or 0)
    try:
        container.seek(place, stream=stream, backward=True)
    except av.FFmpegError as error:
        raise_if_starved(error)
        raise VideoError("damaged", "the index does not lead to its frames") from error


def clean_frames_from(
    time_s: float, container: av.container.InputContainer, stream: av.VideoStream, path: str
) -> CleanFrames:
    """Frames from a key frame on, of which the first is not after a time stamp if possible.

    The format has to have an index.
    """
    for back_s in BACK_S:
        seek(container, stream, time_s - back_s)
        with closing(clean_frames(container, stream, path, sought=True)) as frames:
            if back_s == BACK_S[-1]:
                yield from frames
                return
            first = next(frames, None)
            if first and first.stamp_s is not None and first.stamp_s <= time_s:
                yield first
                yield from frames
                return
