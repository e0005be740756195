"""Videos that people really have: odd, damaged, or none at all, made with PyAV or byte by byte.

Every frame tells its number and which way is up: the corners of its centre square are red,
green, blue and grey, and a strip across the middle spells the number in six bits.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.video import Frames

HEIGHT, WIDTH, COUNT, FPS, KEY_EVERY = 64, 96, 40, 25, 8
CORNERS = ((200, 30, 30), (30, 180, 30), (30, 30, 200), (120, 120, 120))
ASSETS = Path(__file__).parent / "assets"


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> Frames:
    """Frame `number` of the test video."""
    frame = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    half, middle = HEIGHT // 2, WIDTH // 2
    noise = np.random.default_rng(number).integers(-12, 13, frame.shape)
    frame[:half, :middle], frame[:half, middle:] = CORNERS[0], CORNERS[1]
    frame[half:, :middle], frame[half:, middle:] = CORNERS[2], CORNERS[3]
    frame = (frame + noise).astype(np.uint8)
    for bit in range(6):
        left = middle - 24 + 8 * bit
        frame[half - 4 : half + 4, left : left + 8] = 255 if number >> bit & 1 else 0
    rows, columns = np.arange(height) * HEIGHT // height, np.arange(width) * WIDTH // width
    return frame[rows][:, columns]


def number_of(square: Frames) -> int:
    """The number that a frame shows, resized and cropped to 64x64."""
    assert square.shape == (64, 64, 3)
    levels = [square[31:33, 8 + 8 * bit + 3 : 8 + 8 * bit + 5].mean() for bit in range(6)]
    assert all(level < 90 or level > 165 for level in levels), levels
    return sum((level > 128) << bit for bit, level in enumerate(levels))


def is_upright(square: Frames, tolerance: int = 60) -> bool:
    """Whether the corners have their colours and are where they should be."""
    places = [square[12, 12], square[12, 51], square[51, 12], square[51, 51]]
    return all(
        np.abs(place.astype(int) - colour).max() <= tolerance
        for place, colour in zip(places, CORNERS, strict=True)
    )


def write(
    path: Path,
    codec: str,
    pixels: str = "yuv420p",
    count: int = COUNT,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    times: list[int] | None = None,
    aspect: Fraction | None = None,
    form: str | None = None,
    first: int = 0,
    frames: list[Frames] | None = None,
    **options: str,
) -> Path:
    """Encode the test video; `times` are in milliseconds."""
    muxing = {"movflags": "+faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", format=form, options=muxing) as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = size
        stream.pix_fmt, stream.thread_count, stream.gop_size = pixels, 1, KEY_EVERY
        stream.codec_context.bit_rate = 2_000_000
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(count):
            shown = frames[index] if frames else picture(first + index, *size)
            frame = av.VideoFrame.from_ndarray(shown, format="rgb24")
            if times:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def image_folder(folder: Path, count: int) -> Path:
    """The test video as JPEG files whose numbers have no leading zeros."""
    folder.mkdir(parents=True)
    for number in range(count):
        image = Image.fromarray(picture(number))
        image.save(folder / f"frame_{number}.jpg", quality=95, subsampling=0)
    return folder


def cut(path: Path, share: float) -> Path:
    """Keep the first part of a file."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def corrupt(path: Path) -> Path:
    """Overwrite some of the middle of a file with noise."""
    data = bytearray(path.read_bytes())
    start, length = len(data) // 2, len(data) // 40
    data[start : start + length] = np.random.default_rng(0).bytes(length)
    path.write_bytes(data)
    return path


def patch(path: Path, old: bytes, new: bytes, offset: int = 0) -> Path:
    """Overwrite bytes at an offset from each occurrence of `old`."""
    data = bytearray(path.read_bytes())
    assert old in data
    place = data.find(old)
    while place >= 0:
        data[place + offset : place + offset + len(new)] = new
        place = data.find(old, place + 1)
    path.write_bytes(data)
    return path


def _placed(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Stored turned or mirrored, with a display matrix that undoes it.

    ISO/IEC 14496-12, 6.2.2: the pixel (p, q) is displayed at (ap + cq, bp + dq).
    """
    frames = []
    for shown in map(picture, range(COUNT)):
        stored = shown.swapaxes(0, 1) if b else shown
        rows, columns = (c, b) if b else (d, a)
        frames.append(np.ascontiguousarray(stored[::rows, ::columns]))
    write(path, "libx264", size=frames[0].shape[:2], frames=frames)
    matrix = np.array([a, b, 0, c, d, 0, 0, 0, 16384], ">i4")
    matrix[[0, 1, 3, 4]] *= 65536
    # After "tkhd": version, times, id, duration, layer and volume take 44 bytes.
    return patch(path, b"tkhd", matrix.tobytes(), 4 + 40)


def pq_code(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """SMPTE ST 2084: light in cd/m² to a code from 0 to 1."""
    power = (light / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


BT709_TO_BT2020 = np.array(
    [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
)
"""ITU-R BT.2087, linear light."""


def ten_bit_frame(planes: Sequence[NDArray], transfer: int) -> av.VideoFrame:
    """A frame in BT.2020 and 4:4:4 of planes (H, W); transfer functions as numbered by H.273."""
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, "yuv444p10le")
    for plane, levels in zip(frame.planes, planes, strict=True):
        rows = np.frombuffer(plane, np.uint16).reshape(height, plane.line_size // 2)
        rows[:, :width] = levels.round()
    frame.colorspace, frame.color_range = 9, 1
    frame.color_trc, frame.color_primaries = transfer, 9
    return frame


def bt2020_planes(rgb: NDArray[np.float64]) -> tuple[NDArray, NDArray, NDArray]:
    """Levels of Y, Cb and Cr with ten bits, of codes from 0 to 1 (H, W, 3)."""
    r, g, b = np.moveaxis(rgb, -1, 0)
    y = 0.2627 * r + 0.6780 * g + 0.0593 * b
    return 64 + 876 * y, 512 + 896 * (b - y) / 1.8814, 512 + 896 * (r - y) / 1.4746


def pq_frame(rgb: Frames) -> av.VideoFrame:
    """A frame in PQ and BT.2020, 10 bit, whose white has 203 cd/m² (ITU-R BT.2408)."""
    linear = (rgb / 255.0) ** 2.4 @ BT709_TO_BT2020.T
    return ten_bit_frame(bt2020_planes(pq_code(203 * linear)), transfer=16)


def _in_pq(path: Path) -> Path:
    """HDR10, as phones and cameras record it."""
    with av.open(str(path), "w") as container:
        tags = "log-level=none:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
        stream = container.add_stream("libx265", rate=FPS, options={"x265-params": tags})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv444p10le"
        stream.codec_context.bit_rate = 4_000_000
        for number in range(COUNT):
            container.mux(stream.encode(pq_frame(picture(number))))
        container.mux(stream.encode())
    return path


def _interlaced(path: Path) -> Path:
    """The lower field shows something else."""
    frames = [picture(n) for n in range(COUNT)]
    for n, frame in enumerate(frames):
        frame[1::2] = 255 - picture(n)[1::2]
    return write(
        path, "mpeg2video", "yuv422p", frames=frames, flags="+ildct+ilme", qscale="2", top="1"
    )


def _sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), "fltp", "mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _text(path: Path) -> Path:
    path.write_text("This is a shopping list.\n" * 50)
    return path


def _empty(path: Path) -> Path:
    path.touch()
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _dangling(path: Path) -> Path:
    path.symlink_to(path.parent / "gone.mp4")
    return path


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _without_rate(path: Path) -> Path:
    """A Matroska file whose DefaultDuration is void."""
    return patch(write(path, "libx264"), b"\x23\xe3\x83\x84", b"\xec\x86")


def _joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def _with_malformed_sei(path: Path, codec: str) -> Path:
    """Each picture comes with a message of a camera's maker that claims to be longer than it is."""
    head = b"\x06" if codec == "libx264" else b"\x4e\x01"
    message = b"\0\0\0\1" + head + b"\x05\xc8" + bytes(range(16, 32)) + b"camera\x80"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=QUIET if codec == "libx265" else {})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.bit_rate, stream.gop_size = 2_000_000, KEY_EVERY
        frames = [av.VideoFrame.from_ndarray(picture(n), format="rgb24") for n in range(COUNT)]
        for packet in [p for frame in (*frames, None) for p in stream.encode(frame)]:
            marked = av.Packet(message + bytes(packet))
            marked.pts, marked.dts, marked.time_base = packet.pts, packet.dts, packet.time_base
            marked.is_keyframe, marked.stream = packet.is_keyframe, stream
            container.mux(marked)
    return path


def with_clock_jump(path: Path, starts_s: tuple[int, int]) -> Path:
    """Two recordings in one MPEG transport stream, which begin at other times of their clocks."""
    parts = []
    for number, start_s in enumerate(starts_s):
        times = [1000 * start_s + 1000 * n // FPS for n in range(20)]
        part, first = path.with_suffix(f".{number}"), 20 * number
        parts.append(write(part, "libx264", count=20, first=first, times=times, form="mpegts"))
    return _joined(path, *parts)


def _grown(path: Path) -> Path:
    """A bare stream whose second half is larger."""
    a = write(path.with_suffix(".a"), "libx264", count=20, form="h264")
    b = write(path.with_suffix(".b"), "libx264", count=20, first=20, size=(128, 192), form="h264")
    return _joined(path, a, b)


def _with_line_break(path: Path) -> Path:
    write(path, "gif", "rgb8")
    path.write_bytes(path.read_bytes() + b"\r\n")
    return path


def _with_another_stream(path: Path, codec: str, count: int, size: tuple[int, int]) -> Path:
    """Another video stream comes first: grey pictures of another size."""
    with av.open(str(path), "w") as container:
        other = container.add_stream(codec, rate=FPS)
        main = container.add_stream("libx264", rate=FPS)
        assert isinstance(other, av.VideoStream) and isinstance(main, av.VideoStream)
        other.height, other.width = size
        other.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        main.height, main.width, main.pix_fmt, main.gop_size = HEIGHT, WIDTH, "yuv420p", KEY_EVERY
        main.codec_context.bit_rate = 2_000_000
        for number in range(COUNT):
            if number < count:
                grey = np.full((*size, 3), 128, np.uint8)
                container.mux(other.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            container.mux(main.encode(frame))
        container.mux(other.encode())
        container.mux(main.encode())
    return path


def _late(path: Path) -> Path:
    return write(path, "libx264", times=[5000 + 40 * n for n in range(COUNT)])


def _late_by_mkvmerge(path: Path) -> Path:
    """Its header counts the length from the first frame."""
    data = _late(path).read_bytes()
    path.write_bytes(re.sub(rb"(\x4d\x80.)Lavf", rb"\1libm", data, flags=re.DOTALL))
    return patch(path, b"\x44\x89\x88", struct.pack(">d", COUNT * 40.0), 3)


def _list_of_videos(path: Path) -> Path:
    """A text that FFmpeg takes for a list: it would read the video beside it."""
    write(path.with_name("sibling.mkv"), "libx264")
    path.write_text("ffconcat version 1.0\nfile sibling.mkv\n")
    return path


def _cut_without_decoding(path: Path) -> Path:
    """Begins within a group of pictures: an edit list hides what precedes the cut."""
    hidden = 10
    frames = [picture(63)] * hidden + [picture(number) for number in range(COUNT)]
    whole = path.with_suffix(".mov")
    write(whole, "libx264", count=len(frames), frames=frames, g="100", bf="2")
    unchanged = {"avoid_negative_ts": "disabled"}
    with av.open(str(whole)) as source, av.open(str(path), "w", options=unchanged) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None and packet.pts is not None:
                packet.stream = stream
                start = int(hidden / (FPS * packet.time_base))
                packet.pts, packet.dts = packet.pts - start, packet.dts - start
                container.mux(packet)
    whole.unlink()
    return path


def _theora(path: Path) -> Path:
    """No library at hand writes Theora: encoded once, by FFmpeg, from frames made here."""
    path.write_bytes((ASSETS / "theora.ogv").read_bytes())
    return path


VFR_MS = [40 * n + 400 * (n >= 20) for n in range(COUNT)]


@dataclass(frozen=True)
class Kind:
    """A kind of file, and what is to become of it. Frames are told by their numbers."""

    name: str
    make: Callable[[Path], Path]
    status: str = "ok"
    reason: str | None = None
    frames: set[int] = field(default_factory=lambda: set(range(COUNT)))
    """For `ok`: the frames that clips hold. For `partial`: those that they may hold."""
    least: int = COUNT
    """How many frames clips hold at least."""


def _whole(name: str, codec: str, pixels: str = "yuv420p", **options: object) -> Kind:
    return Kind(name, lambda path: write(path, codec, pixels, **options))  # type: ignore[arg-type]


def _av1(path: Path) -> Path:
    """The encoder gives the thread that calls it real-time priority, where it may, and leaves it
    there: that thread, and all it starts later, would keep others from the processors."""
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        return write(path, "libsvtav1")
    finally:
        os.sched_setscheduler(0, policy, priority)


QUIET = {"x265-params": "log-level=none"}
KINDS = {
    "empty": Kind("a.mp4", _empty, "rejected", "empty"),
    "text": Kind("a.mp4", _text, "rejected", "unreadable"),
    "audio only": Kind("a.mp4", _sound, "rejected", "no_video_stream"),
    "folder": Kind("a.mp4", _folder, "rejected", "not_a_file"),
    "dangling link": Kind("a.mp4", _dangling, "rejected", "missing"),
    "named pipe": Kind("a.mp4", _pipe, "rejected", "not_a_file"),
    "one frame": Kind("a.mp4", lambda p: write(p, "libx264", count=1), "rejected", "too_short"),
    "16k header": Kind(
        "a.mov",
        lambda p: patch(write(p, "qtrle", "rgb24"), b"rle ", b"\x40\0\x40\0", 28),
        "rejected",
        "too_many_pixels",
    ),
    "index cut off": Kind(
        "a.mov", lambda p: cut(write(p, "libx264"), 0.8), "rejected", "unreadable"
    ),
    "0 fps": Kind("a.avi", lambda p: patch(write(p, "mpeg4"), b"strh", b"\0\0\0\0", 4 + 4 + 24)),
    "no frame rate": Kind("a.mkv", _without_rate),
    "too low a count": Kind("a.avi", lambda p: patch(write(p, "mpeg4"), b"strh", b"\7\0", 40)),
    "too high a count": Kind("a.avi", lambda p: patch(write(p, "mpeg4"), b"strh", b"\7\7", 40)),
    "variable rate": Kind("a.mp4", lambda p: write(p, "libx264", times=VFR_MS)),
    "no time stamps": Kind("a.mp4", lambda p: write(p, "libx264", form="h264")),
    "10-bit HEVC": _whole("a.mp4", "libx265", "yuv420p10le", **QUIET),
    "4:4:4 HEVC": _whole("a.mkv", "libx265", "yuv444p", **QUIET),
    "10-bit 4:4:4 HEVC": _whole("a.mkv", "libx265", "yuv444p10le", **QUIET),
    "alpha": _whole("a.mov", "qtrle", "argb"),
    "ProRes with alpha": _whole("a.mov", "prores_ks", "yuva444p10le"),
    "rotated by 90": Kind("a.mp4", lambda p: _placed(p, 0, 1, -1, 0)),
    "rotated by 180": Kind("a.mp4", lambda p: _placed(p, -1, 0, 0, -1)),
    "rotated by 270": Kind("a.mp4", lambda p: _placed(p, 0, -1, 1, 0)),
    "mirrored": Kind("a.mp4", lambda p: _placed(p, -1, 0, 0, 1)),
    "upside down": Kind("a.mov", lambda p: _placed(p, 1, 0, 0, -1)),
    "mirrored at a diagonal": Kind("a.mp4", lambda p: _placed(p, 0, 1, 1, 0)),
    "mirrored at the other diagonal": Kind("a.mp4", lambda p: _placed(p, 0, -1, -1, 0)),
    "HDR": Kind("a.mp4", _in_pq),
    "interlaced": Kind("a.mpg", _interlaced),
    "odd size": _whole("a.mkv", "ffv1", "yuv420p", size=(65, 97)),
    "tiny": _whole("a.mkv", "ffv1", "yuv444p", size=(32, 48)),
    "wide pixels": _whole("a.mp4", "libx264", size=(64, 48), aspect=Fraction(2)),
    "tall pixels": _whole("a.mkv", "libx264", size=(32, 96), aspect=Fraction(1, 2)),
    "GIF": _whole("a.gif", "gif", "rgb8"),
    "GIF with a line break at its end": Kind("a.gif", _with_line_break),
    "VP8": _whole("a.webm", "libvpx"),
    "VP9": _whole("a.webm", "libvpx-vp9"),
    "VP9 with hidden frames": _whole(
        "a.webm", "libvpx-vp9", **{"auto-alt-ref": "1", "lag-in-frames": "16"}
    ),
    "cut without decoding": Kind("a.mp4", _cut_without_decoding),
    "AV1": Kind("a.mp4", _av1),
    "MPEG-2 programme stream": _whole("a.mpg", "mpeg2video"),
    "MPEG-2 transport stream": _whole("a.ts", "mpeg2video"),
    "Theora": Kind("a.ogv", _theora),
    "Cinepak": _whole("a.avi", "cinepak", "rgb24"),
    "Motion JPEG, full range": _whole("a.avi", "mjpeg", "yuvj420p"),
    "MPEG-4 with B-frames in AVI": _whole("a.avi", "mpeg4", bf="2"),
    "WMV": _whole("a.wmv", "wmv2"),
    "FLV": _whole("a.flv", "flv"),
    "3GP": _whole("a.3gp", "mpeg4"),
    "size changes": Kind("a.mp4", _grown),
    "malformed SEI in MP4": Kind("a.mp4", lambda p: _with_malformed_sei(p, "libx264")),
    "malformed SEI in a stream": Kind("a.ts", lambda p: _with_malformed_sei(p, "libx264")),
    "malformed SEI, HEVC": Kind("a.mkv", lambda p: _with_malformed_sei(p, "libx265")),
    "malformed SEI in a stream, HEVC": Kind("a.ts", lambda p: _with_malformed_sei(p, "libx265")),
    "cover first": Kind("a.mkv", lambda p: _with_another_stream(p, "mjpeg", 1, (64, 96))),
    "preview first": Kind("a.mkv", lambda p: _with_another_stream(p, "libx264", COUNT, (32, 32))),
    "begins at 5 s": Kind("a.mkv", _late),
    "begins at 5 s, by mkvmerge": Kind("a.mkv", _late_by_mkvmerge),
    "list of videos": Kind("a.mp4", _list_of_videos, "rejected", "unreadable"),
    "MXF": _whole("a.mxf", "mpeg2video"),
    "YUV4MPEG": _whole("a.y4m", "wrapped_avframe"),
    "bare MPEG-2": _whole("a.m2v", "mpeg2video", form="mpeg2video"),
    "F4V": _whole("a.f4v", "libx264"),
    "no suffix": _whole("a", "libx264", form="matroska"),
    "odd characters": _whole("a[1]*?%03d #+\n::.mp4", "libx264"),
    "dotted name": _whole("a.b..c.MP4", "libx264"),
    "Unicode name": _whole("чай 茶 🎬.mp4", "libx264"),
}
"""Files whose whole content is right, or that are rejected."""

CODECS = {
    "a.mp4": "libx264",
    "a.mkv": "libx264",
    "a.ts": "libx264",
    "a.avi": "mpeg4",
    "a.mpg": "mpeg2video",
    "b.ts": "mpeg2video",
    "a.webm": "libvpx-vp9",
    "b.mp4": "libx265",
    "a.flv": "flv",
    "a.wmv": "wmv2",
    "a.gif": "gif",
    "b.avi": "mjpeg",
}
"""File to codec of videos to damage."""


OPEN = "bframes=3:keyint=8:min-keyint=8:scenecut=0:b-adapt=0:open-gop=1"
REORDERED: dict[str, tuple[str, dict[str, str]]] = {
    "b-frames.mp4": ("libx264", {"bf": "3"}),
    "b-frames.flv": ("libx264", {"bf": "2"}),
    "b-frames.avi": ("mpeg4", {"bf": "2"}),
    "h264.avi": ("libx264", {"bf": "2"}),
    "b-frames.mpg": ("mpeg2video", {"bf": "2"}),
    "b-frames.ts": ("mpeg2video", {"bf": "2"}),
    "b-frames.mxf": ("mpeg2video", {"bf": "2"}),
    "open.mp4": ("libx264", {"x264-params": OPEN}),
    "open.mkv": ("libx264", {"x264-params": OPEN}),
    "open.ts": ("libx264", {"x264-params": OPEN}),
    "hevc.mp4": ("libx265", {"x265-params": "log-level=none:" + OPEN}),
    "refreshed.mp4": ("libx264", {"x264-params": "intra-refresh=1:keyint=8:bframes=0"}),
}
"""Videos whose frames are stored in another order than they are displayed in, with groups that
depend on earlier ones, or without whole pictures to start from: codecs and their options."""


def plain(path: Path) -> Path:
    """A sound video, named by one of `CODECS`."""
    codec = CODECS[path.name]
    pixels = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
    return write(path, codec, pixels, **(QUIET if codec == "libx265" else {}))
