"""Near-duplicate videos: each is looked at once, then all are compared.

    plan ──▶ one task a shard ──▶ looks/*.json ──▶ who looks like whom ──▶ plan

What videos look like is kept under the root, each beside what it was read from: only new and
altered videos are looked at again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from pipelines.clip_shards import ShardPlan, decoding_process, local_video
from pipelines.io import storage, workspace
from pipelines.io.child import Deadline
from pipelines.io.cutting import CutRequest
from pipelines.io.duplicates import Twin, find_twins
from pipelines.io.manifest import Source
from pipelines.io.plan import Place
from pipelines.io.reasons import VideoError
from pipelines.io.video.header import check_place
from pipelines.io.video.looks import FRAMES, look_at
from vqvdm.errors import UserError

FORMAT = 1
"""Changed whenever the same video would look otherwise."""

HASH_BYTES = 8 * FRAMES


def look_at_shard(row: dict) -> dict:
    """Look at the videos of one shard: the task that Ray runs.

    Takes {"plan": ShardPlan, "looks": folder, "retry": bool}, gives {"name": of the shard,
    "looks": a hash in hexadecimal for each video, empty where there is none}.
    """
    plan: ShardPlan = row["plan"]
    name = f"{plan.name}.json"
    known = workspace.published(row["looks"], name)
    known = known if isinstance(known, dict) else {}
    found = {}
    for source in plan.sources:
        stamp = _stamp(source)
        look = known.get(stamp)
        found[stamp] = _look(source, plan) if look is None or (row["retry"] and not look) else look
    if found != known:
        storage.publish_json(found, storage.join(row["looks"], name))
    return {"name": plan.name, "looks": [found[_stamp(source)] for source in plan.sources]}


def _stamp(source: Source) -> str:
    """What decides how a video looks."""
    content = [source.uri, source.size, source.etag, source.mtime_ns]
    span = [source.start_s, source.end_s, source.frames_fps]
    return storage.fingerprint([FORMAT, content, span])


def _look(source: Source, plan: ShardPlan) -> str:
    try:
        with local_video(source) as path:
            check_place(path, source.frames_fps is not None)
            start_s = source.start_s or 0.0
            request = CutRequest(path, plan.spec, source.frames_fps, start_s, source.end_s)
            child = decoding_process(plan.patience.max_memory_gb)
            return b"".join(child.run(look_at, request, Deadline(plan.patience.timeout_s))).hex()
    except (VideoError, FileNotFoundError, PermissionError):
        return ""  # Its account will tell why, once it is cut.
    except UserError as error:
        if not storage.is_refusal(error):
            raise
        return ""


def compare(
    places: Mapping[str, Place], looks: Iterable[dict], count: int, min_distance: float
) -> dict[int, Twin]:
    """Rows of the near-duplicates among `count` videos, from what the tasks gave.

    Of two that look alike, the first of the listing is kept.
    """
    hashes_NB = np.zeros((count, HASH_BYTES), np.uint8)
    seen_N = np.zeros(count, bool)
    for row in looks:
        for index, look in zip(places[row["name"]].rows_N, row["looks"], strict=True):
            if look:
                hashes_NB[index] = np.frombuffer(bytes.fromhex(look), np.uint8)
                seen_N[index] = True
    rows = np.flatnonzero(seen_N)
    max_bits = math.ceil(min_distance * FRAMES) - 1
    return {
        int(rows[late]): Twin(int(rows[twin.kept]), twin.bits)
        for late, twin in find_twins(hashes_NB[rows], max_bits).items()
    }


def sweep(folder: str, names: Iterable[str]) -> None:
    """Delete the looks of shards that are no more."""
    wanted = {f"{name}.json" for name in names}
    for file in storage.walk(folder):
        if file.uri[len(folder) + 1 :] not in wanted:
            storage.delete(file.uri)
    storage.discard_unfinished(folder)
