"""Clips of a shard that is there already, for a new plan of it: what has not changed is copied.

A video that is added to a shard, removed or altered, a label, a split: the clips of all other
videos of the shard stay the same bytes. Of the videos that a new plan shares with the shard, those
whose pixels are the same are not decoded again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from pipelines.io import storage
from pipelines.io.markers import Marker
from pipelines.io.shards import CLIP, ShardReader
from pipelines.sharding import manifest
from pipelines.sharding.clips_of_videos import keys_by_id
from pipelines.sharding.manifest import Account, Source

DESCRIPTION = frozenset(("label", "columns"))
"""What of a video stands beside its clips without changing a pixel of them."""


@dataclass(frozen=True)
class EarlierClip:
    key: str
    video: bytes
    metadata: dict[str, Any]


@dataclass(frozen=True)
class EarlierClips:
    """The clips of a shard by the video that they were cut from; by default of none."""

    _reader: ShardReader | None = None
    _videos: dict[str, tuple[Source, Account]] = field(default_factory=dict)
    _keys: dict[str, list[str]] = field(default_factory=dict)
    """Keys by the id of the video."""

    def account(self, source: Source) -> Account | None:
        """The account of a video that is still the same; None if it has to be decoded."""
        earlier, account = self._videos.get(source.id, (None, None))
        if earlier is None or account is None or _pixels_of(earlier) != _pixels_of(source):
            return None
        return account if account.clips == len(self._keys.get(source.id, [])) else None

    def clips(self, source: Source) -> Iterator[EarlierClip]:
        """The clips of a video that has an account."""
        for key in self._keys.get(source.id, []):
            assert self._reader is not None
            members = self._reader[key]
            yield EarlierClip(key, members[CLIP], json.loads(members["json"]))


def _pixels_of(source: Source) -> dict[str, Any]:
    return {name: v for name, v in source.content.items() if name not in DESCRIPTION}


NO_CLIPS = EarlierClips()


@contextmanager
def earlier_clips(folder: str, marker: Marker | None, retry: bool) -> Iterator[EarlierClips]:
    """The clips of a shard; of a missing or damaged one, only accounts of videos without clips.
    With `retry`, videos that failed have no account."""
    with ExitStack() as opened:
        yield _by_video(_open(folder, marker, opened), marker, retry) if marker else NO_CLIPS


def _open(folder: str, marker: Marker, opened: ExitStack) -> ShardReader | None:
    uri = storage.join(folder, f"{marker.name}.tar")
    try:
        path = opened.enter_context(storage.local_copy(uri))
        return ShardReader(path) if storage.sha256(path) == marker.sha256 else None
    except FileNotFoundError:
        return None


def _by_video(reader: ShardReader | None, marker: Marker, retry: bool) -> EarlierClips:
    videos = {
        source.id: (source, account)
        for source, account in manifest.from_marker(marker.details)
        if account.reason != "near_duplicate" and not (retry and account.failed)
    }
    if reader is None:
        return EarlierClips(None, videos)

    def source_of(key: str) -> str:
        return json.loads(reader.member(key, "json"))["source"]

    return EarlierClips(reader, videos, keys_by_id(marker, source_of))
