"""Perceptual hashes of videos: a few bits that hardly depend on size, rate or codec.

They are cached under the root by the fingerprint of their input: only new and altered videos are
hashed.
"""

from __future__ import annotations

from collections.abc import Iterator

import imagehash
import numpy as np
from PIL import Image

from pipelines.io import checksums, storage, workspace
from pipelines.io.connection import is_refusal
from pipelines.sharding.clip_shards import ShardPlan, decoding_process, request_for
from pipelines.sharding.clips import CutRequest, check_header
from pipelines.sharding.manifest import Source
from pipelines.sharding.sources import LocalVideos
from pipelines.sharding.spans import parts_read
from pipelines.video.decoding_process import Deadline
from pipelines.video.header import VideoInfo, check_place, probe
from pipelines.video.luma import sample_luma
from pipelines.video.reasons import VideoError
from vqvdm.errors import UserError

FORMAT = 1
"""Changed whenever sound videos would get other hashes."""
FRAMES = 8
"""Frames spread over a video, each of which is hashed to 64 bits."""
HASH_BYTES = 8 * FRAMES
LIMITS = ("timed_out", "out_of_memory")
"""Why a video may have no hash this time, and have one with other limits or on another machine."""


def hash_video(request: CutRequest) -> Iterator[VideoInfo | bytes]:
    """The hash of a video: yields what its header says, and `HASH_BYTES` bytes, or not where it
    cannot be read; `VideoError` where it takes too much memory. Of a span it is that of the whole
    video.

    A difference hash compares neighbouring pixels of the frame shrunk to 9x8, in integers: it is
    the same on any processor.
    """
    try:
        info = probe(request.path, request.frames_fps)
        yield info
        check_header(info, request)
        span_s = (request.start_s, request.end_s)
        lumas = sample_luma(request.path, info, FRAMES, request.frames_fps, span_s)
        hashes = [np.packbits(imagehash.dhash(Image.fromarray(luma)).hash) for luma in lumas]
    except VideoError as error:
        if error.reason in LIMITS:
            raise
        return  # Its account will contain the reason, once it is cut.
    if hashes:
        # A video of unknown length is represented by its first frame.
        yield b"".join(hash.tobytes() for hash in (hashes * FRAMES)[:FRAMES])


def known_hashes(folder: str, retry: bool, plan: ShardPlan) -> list[str] | None:
    """What `hash_shard` would give for a shard without hashing anything; None if it has to."""
    known = _cached(folder, plan)
    wanted = [_content(source) for source in _hashed(plan)]
    if known.keys() != set(wanted) or (retry and not all(known.values())):
        return None
    return _in_order(known, plan)


def _hashed(plan: ShardPlan) -> list[Source]:
    """Those that are hashed: the first span of a file stands for the whole of it."""
    return [source for source in plan.sources if source.span in (None, 1)]


def _in_order(known: dict[str, str], plan: ShardPlan) -> list[str]:
    return [known[_content(s)] if s.span in (None, 1) else "" for s in plan.sources]


def _cached(folder: str, plan: ShardPlan) -> dict[str, str]:
    """The hashes of a shard that were published, by the fingerprint of their input."""
    found = workspace.published(folder, f"{plan.name}.json")
    return found if isinstance(found, dict) else {}


def hash_shard(row: dict) -> dict:
    """Hash the videos of one shard: the task that Ray runs.

    Takes {"plan": ShardPlan, "hashes": folder, "retry": bool}, gives {"name": of the shard,
    "hashes": one in hexadecimal for each video, empty where there is none and for the spans of a
    file but the first, "beyond_limits": how many videos have none for want of time or memory}.
    Those are not recorded: the next run tries again.
    """
    plan: ShardPlan = row["plan"]
    known = _cached(row["hashes"], plan)
    found, beyond = dict[str, str](), dict[str, str]()
    with LocalVideos() as videos:
        for source in _hashed(plan):
            content = _content(source)
            hash = known.get(content)
            if hash is None or (row["retry"] and not hash):
                hash = _hash(source, plan, videos)
            if hash is None:
                beyond[content] = ""
            else:
                found[content] = hash
    if found != known:
        storage.publish_json(found, storage.join(row["hashes"], f"{plan.name}.json"))
    hashes = _in_order(found | beyond, plan)
    return {"name": plan.name, "hashes": hashes, "beyond_limits": len(beyond)}


def _content(source: Source) -> str:
    """Fingerprint of all that the hash of a video depends on."""
    content = [source.path, source.size, source.etag, source.mtime_ns]
    span = [source.start_s, source.end_s, source.frames_fps]
    return checksums.fingerprint([FORMAT, content, span])


def _hash(source: Source, plan: ShardPlan, videos: LocalVideos) -> str | None:
    """The hash of a video in hexadecimal, empty where there is none; None beyond the limits."""
    limits = plan.decode_limits
    if source.refused:
        return ""
    try:
        path = videos.path(source)
        check_place(path, source.frames_fps is not None)
        request = request_for(source, path, plan.spec)
        process = decoding_process(limits.max_memory_gb)
        deadline, hash = Deadline(limits.timeout_s), b""
        with parts_read(source) as read:
            for found in process.run(hash_video, request, deadline, read):
                if isinstance(found, VideoInfo):
                    most_s = min(found.duration_s or 0.0, plan.spec.limits.max_duration_s)
                    deadline.allowed_s = limits.allowed_s(found, most_s)
                else:
                    hash = found
        return hash.hex()
    except VideoError as error:
        return None if error.reason in LIMITS else ""
    except (FileNotFoundError, PermissionError):
        return ""  # Its account will contain the reason, once it is cut.
    except UserError as error:
        if not is_refusal(error):
            raise
        return ""
