"""Which real clips are looked at, decided from the account of videos alone, and reading them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.io import manifest, shards, storage
from pipelines.io.shards import Marker, ShardReader
from vqvdm.errors import UserError
from vqvdm.seeds import mix


@dataclass(frozen=True)
class Pick:
    """One clip: the `ordinal`-th of a source video, which lies in a shard."""

    shard: str
    source: str
    ordinal: int


def draw(
    markers: Sequence[Marker], rows: Sequence[dict[str, Any]], by: str, count: int, seed: int
) -> list[Pick]:
    """At most `count` clips in random order, without repetition.

    `rows` are those of `videos.parquet`. By `videos`, every video gives one random clip; by
    `clips`, all clips are alike. Videos go by their id, so the order of files decides nothing.
    """
    shard_of = {source: marker.name for marker in markers for source in marker.sources}
    found = sorted((row["id"], row["clips"]) for row in rows if row["id"] in shard_of)
    rng = np.random.default_rng(mix(seed, 0xD4A3))
    if by == "videos":
        places = [(id, int(rng.integers(clips))) for id, clips in found if clips]
    else:
        places = [(id, k) for id, clips in found for k in range(clips)]
    order = rng.permutation(len(places))[:count]
    return [Pick(shard_of[places[i][0]], *places[i]) for i in order]


@dataclass(frozen=True)
class Clip:
    """A clip as it lies in a shard."""

    mp4: bytes
    class_index: int
    fps: float
    source: str
    start_s: float


def read_picks(folder: str, marker: Marker, picks: Sequence[Pick]) -> list[Clip]:
    """The chosen clips of one verified shard, in the order of the picks."""
    uri = storage.join(folder, f"{marker.name}.tar")
    with shards.missing_is_named(uri, "shard_videos"), storage.local_copy(uri) as path:
        shards.verify_file(path, marker, uri, "shard_videos")
        reader = ShardReader(path)
        by_source: dict[str, list[tuple[float, float, str]]] = {}
        about = {key: json.loads(reader[key]["json"]) for key in marker.keys}
        for key, each in about.items():
            id = manifest.video_id(each["source"])
            by_source.setdefault(id, []).append((each["fps"], each["start_s"], key))
        clips = []
        for pick in picks:
            try:
                key = sorted(by_source[pick.source])[pick.ordinal][2]
            except (KeyError, IndexError):
                raise UserError(
                    f"{uri} holds other clips than videos.parquet says: "
                    "run jobs/shard_videos.py again to mend it"
                ) from None
            each, mp4 = about[key], reader[key]["mp4"]
            index = -1 if each["class_index"] is None else each["class_index"]
            clips.append(Clip(mp4, index, each["fps"], each["source"], each["start_s"]))
    return clips
