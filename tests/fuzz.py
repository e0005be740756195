"""Searches for inputs that break sharding: `python -m tests.fuzz --minutes 10 --seed 0`.

Changes bytes of videos of all kinds, mostly in their headers, writes tables of labels from
fragments, and folders with names of odd characters. Prints what breaks a promise: a decoding
process that crashes by an exception of ours, an account without a documented reason, a clip of
other frames than asked for, an error that is not the user's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipelines.sharding.clips import ClipSpec, CutRequest, EncodedClip, Outcome, cut_video
from pipelines.sharding.settings import Limits, Selection
from pipelines.sharding.sources import list_sources
from pipelines.video.decoding_process import Deadline, DecodingProcess
from pipelines.video.encoder import decode_clip
from pipelines.video.header import VideoInfo
from pipelines.video.reasons import VideoError
from tests.odd_videos import KINDS, REORDERED, write
from vqvdm.errors import UserError

SPEC = ClipSpec(4, 32, 4, (None, 8.0), ("a",), limits=Limits(max_duration_s=60))
TIMEOUT_S = 30.0
COLUMNS = ("path", "label", "split", "start_s", "end_s", "fps")
VALUES = ("a.mp4", "b/a.mp4", "../a.mp4", "train", "val", "0", "1.5", "-1", "nan", "inf", "1e400")
ODD = ("", '"', "'", "null", "true", "[]", "{}", "é", "\x00", "x" * 5000)
WORDS = (*COLUMNS, *VALUES, *ODD)


def changed(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes of a file with a few changes, most of them near its start or its end."""
    found = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        size = len(found)
        if not size:
            break
        near = min(size, int(rng.choice([64, 512, 4096, size])))
        place = int(rng.integers(near))
        place = size - 1 - place if rng.random() < 0.25 else place
        match rng.integers(6):
            case 0:
                found[place] = rng.integers(256)
            case 1:
                found[place : place + 4] = rng.choice([b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff"])
            case 2:
                found[place : place + 8] = rng.bytes(8)
            case 3:
                del found[place : place + int(rng.integers(1, 64))]
            case 4:
                found[place:place] = found[place : place + int(rng.integers(1, 64))]
            case _:
                del found[max(place, 16) :]
    return bytes(found)


def problems_of_video(path: Path, rng: np.random.Generator, process: DecodingProcess) -> list[str]:
    """What is wrong with the events of a video."""
    start_s = float(rng.choice([0.0, 0.0, 0.34, 1.0]))
    end_s = float(start_s + rng.choice([0.3, 1.0])) if rng.random() < 0.3 else None
    spec = replace(SPEC, scenes=str(rng.choice(["none", "none", "detect"])))
    request = CutRequest(str(path), spec, None, start_s, end_s)
    events, problems, started = [], [], time.monotonic()
    try:
        events = list(process.run(cut_video, request, Deadline(TIMEOUT_S)))
    except VideoError as error:
        if error.reason not in ("timed_out", "out_of_memory"):
            problems.append(f"{error.reason}: {error.detail}")
        elif error.reason == "timed_out":
            problems.append("timed out")
    if time.monotonic() - started > 5:
        problems.append(f"takes {time.monotonic() - started:.0f} s")
    clips = [event for event in events if isinstance(event, EncodedClip)]
    for clip in clips:
        if decode_clip(clip.video).shape != (4, 32, 32, 3) or not 0 < clip.fps <= 1000:
            problems.append(f"a clip at {clip.fps} frames a second")
        if not start_s <= clip.start_s < (end_s or np.inf):
            problems.append(f"a clip at {clip.start_s} of {start_s} to {end_s}")
    if len({(clip.fps, clip.start_frame) for clip in clips}) < len(clips):
        problems.append("two clips of one place")
    for event in events:
        if isinstance(event, VideoInfo) and not (event.duration_s is None or event.duration_s >= 0):
            problems.append(f"lasts {event.duration_s} s")
        if isinstance(event, Outcome) and event.error and "\n" in event.error.detail:
            problems.append(f"a detail of several lines: {event.error.detail!r}")
    return problems


def problems_of_listing(folder: Path, rng: np.random.Generator) -> list[str]:
    """What is wrong with a listing of odd names, with or without a table of odd content."""
    for _ in range(rng.integers(1, 8)):
        letters = [chr(c) for c in (*range(1, 47), *range(48, 127), 0xE9, 0x301, 0x202E, 0x1F3AC)]
        name = "".join(rng.choice(letters, rng.integers(1, 12))).strip(".") or "x"
        place = folder / ("".join(rng.choice(letters, 3)).strip(".") or "y")
        try:
            place.mkdir(exist_ok=True)
            (place / f"{name}.mp4").write_bytes(b"x")
        except OSError:
            continue
    labels = str(rng.choice(["folder", "none", "table"]))
    if labels == "table":
        kind = rng.choice(["csv", "jsonl", "parquet"])
        rows = [",".join(rng.choice(WORDS, rng.integers(1, 7))) for _ in range(rng.integers(6))]
        if kind == "csv" and rng.random() < 0.7:
            rows.insert(0, ",".join(COLUMNS))
        if kind == "jsonl" and rng.random() < 0.8:
            keys = rng.choice(COLUMNS, (max(1, len(rows)), 3))
            rows = ["{" + ",".join(f'"{k}": {rng.choice(WORDS[9:24])}' for k in some) + "}"
                    for some in keys]  # fmt: skip
        table = folder.parent / f"{folder.name}.{kind}"
        table.write_bytes("\n".join(rows).encode("utf-8", "surrogatepass"))
        labels = str(table)
    try:
        sources = list_sources(str(folder), Selection(labels=labels))
    except UserError as error:
        return [] if str(error).strip() else ["an error without words"]
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    return [] if len({source.id for source in sources}) == len(sources) else ["one id twice"]


def originals(folder: Path) -> Iterator[tuple[str, Path]]:
    """Videos of all kinds, to be changed."""
    for number, (name, kind) in enumerate(KINDS.items()):
        place = folder / f"{number}"
        place.mkdir()
        path = kind.make(place / kind.name)
        if path.is_file() and not path.is_symlink():
            yield name, path
    for name, (codec, options) in REORDERED.items():
        yield name, write(folder / name, codec, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    ends, tries, found = time.monotonic() + 60 * given.minutes, Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        videos = list(originals(folder))
        process = DecodingProcess(2.0)
        while time.monotonic() < ends:
            name, path = videos[rng.integers(len(videos))]
            victim = folder / f"victim{path.suffix}"
            victim.write_bytes(changed(path.read_bytes(), rng))
            tries["videos"] += 1
            for problem in problems_of_video(victim, rng, process):
                found[problem[:80]] += 1
                kept = Path(
                    tempfile.gettempdir(), f"fuzz-{given.seed}-{tries['videos']}{path.suffix}"
                )
                kept.write_bytes(victim.read_bytes())
                print(f"{name}, kept as {kept}: {problem}", flush=True)
            for _ in range(3):
                tries["listings"] += 1
                listing = folder / f"listing-{tries['listings']}"
                listing.mkdir()
                for problem in problems_of_listing(listing, rng):
                    found[problem[:80]] += 1
                    print(f"listing: {problem}", flush=True)
        process.close()
    print(
        dict(tries), *(f"{count} x {problem}" for problem, count in found.most_common()), sep="\n"
    )


if __name__ == "__main__":
    main()
