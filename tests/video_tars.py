"""Tar files of videos, written member by member, and clips cut from whatever input."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from pipelines.io.markers import Marker
from pipelines.io.shards import Sample, read_shard
from pipelines.sharding import manifest
from pipelines.sharding.clip_shards import DecodeLimits, ShardPlan, make_shard
from pipelines.sharding.clips import ClipSpec
from pipelines.sharding.manifest import Account, Source

SPEC = ClipSpec(frames=4, size=64, stride=4, rates=(None,), classes=("cat", "dog"))


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """A member of a tar; fields are those of `TarInfo`, such as type and linkname."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> str:
    """A tar of these members; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def cut(sources: list[Source], folder: Path) -> tuple[dict[str, Account], list[Sample]]:
    """The accounts of videos by path, and their clips in the order of keys."""
    plan = ShardPlan(str(folder), "train-000000", tuple(sources), SPEC, DecodeLimits(30.0))
    marker = Marker.from_json(make_shard({"plan": plan, "retry": False, "verify": True})["marker"])
    accounts = manifest.from_marker(marker.details)
    assert [source for source, _ in accounts] == sources
    manifest.reconcile(accounts, marker)
    samples = list(read_shard(str(folder), marker, "shard_videos"))
    return {source.path: account for source, account in accounts}, samples
