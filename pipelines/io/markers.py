"""Markers: the metadata of a finished shard, in a file beside it that is written last.

A shard without its marker does not exist. The marker `NAME.json` beside `NAME.tar` states the
checksum, the size, the keys and what the shard was made from.
"""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from pipelines.io import checksums, lock, storage, workspace
from pipelines.io.readers import read_all
from vqvdm.errors import UserError

SPLITS = ("train", "val")
NAME = re.compile(rf"({'|'.join(SPLITS)})-(\d{{6,}}|[0-9a-f]{{16}})")
"""Names of shards: a split, and a number, or the id of a span."""
SHARD_FILES = re.compile(rf"{NAME.pattern}\.(tar|json)|index\.json|{lock.FILES}")
"""Names of the files of a folder of shards."""


@dataclass(frozen=True)
class Marker:
    """The metadata of a finished shard."""

    name: str
    sha256: str
    bytes: int
    keys: list[str]
    sources: list[str]
    """Ids of the inputs of the shard: videos, or the clip shard."""
    spec_hash: str
    """Fingerprint of the settings, the same for all shards of a folder."""
    made_from: str
    """Fingerprint of all that the content depends on: sources, settings, code of the format."""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def split(self) -> str:
        return self.name.split("-")[0]

    def bare(self) -> Marker:
        """The same without details, which are an account of each video in shards of clips."""
        return replace(self, details={})

    def to_json(self) -> builtins.bytes:
        return checksums.json_bytes(vars(self))

    @classmethod
    def from_json(cls, data: builtins.bytes) -> Marker:
        return cls(**json.loads(data))


def shard_name(split: str, index: int) -> str:
    return f"{split}-{index:06d}"


def span_shard_name(split: str, id: int) -> str:
    """The name of the shard of one span of a large file."""
    return f"{split}-{id:016x}"


def names_in(folder: str, index: Mapping[str, Any], job: str) -> list[str]:
    """Names of the shards in the index of a folder that `job` filled; `UserError` for one that no
    shard has: files are read and written by these names."""
    names = index["shards"]
    if strange := [name for name in names if not NAME.fullmatch(name)]:
        raise UserError(
            f"{folder}/index.json lists {strange[0]!r}, which no shard is called: no job wrote "
            f"that; find out who did, and run jobs/{job}.py again"
        )
    return names


def read_marker(folder: str, name: str) -> Marker | None:
    """The marker of a shard, or None if the shard does not exist or its marker is not valid, as one
    of another shard."""
    try:
        found = Marker.from_json(storage.read_bytes(storage.join(folder, f"{name}.json")))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError, TypeError):
        return None
    return found if found.name == name else None


def is_intact(folder: str, marker: Marker) -> bool:
    """Whether a shard's tar exists and matches its marker."""
    return storage.sha256_or_none(storage.join(folder, f"{marker.name}.tar")) == marker.sha256


Written = tuple[int, datetime | None]
"""Size of a file, and when it was written if the listing tells it."""
Listing = Mapping[str, Written]
"""Those of each file of a folder, by its name."""


def is_untouched(folder: str, marker: Marker, listed: Listing | None = None) -> bool:
    """Whether a shard's tar has the size in its marker, and was not written after it; where a
    listing is given, and tells the times, the store is not asked."""
    names = (f"{marker.name}.tar", f"{marker.name}.json")
    tar, own = (listed.get(name) if listed else None for name in names)
    # Times of listings may be finer than others, so they are compared with their like.
    if not (tar and own and tar[1] and own[1]):
        tar, own = (storage.written(storage.join(folder, name)) for name in names)
    if not (tar and own and tar[1] and own[1]):
        return False
    return tar[0] == marker.bytes and tar[1] <= own[1]


def untouched(
    folder: str, names: Iterable[str], listed: Listing | None = None
) -> Iterator[Marker | None]:
    """The markers of the shards with these names, in order; None where there is no such shard, or
    its tar is not as it was when its marker was written.

    The folder is listed once, if no listing is given: beside that, whatever is there costs a
    request for its marker, and what is not there costs nothing.
    """
    listed = storage.written_below(folder) if listed is None else listed

    def look(name: str) -> Marker | None:
        marker = read_marker(folder, name) if f"{name}.json" in listed else None
        return marker if marker and is_untouched(folder, marker, listed) else None

    yield from read_all(look, names)


def is_sound(folder: str, marker: Marker, verify: bool = True) -> bool:
    """Whether a shard's tar matches its marker. Without `verify`, one that is untouched since its
    marker was written is not read."""
    return (not verify and is_untouched(folder, marker)) or is_intact(folder, marker)


def finished(folder: str, name: str, made_from: str, verify: bool = True) -> Marker | None:
    """The marker of a shard that exists, is sound and has this `made_from`; else None."""
    marker = read_marker(folder, name)
    if marker is None or marker.made_from != made_from:
        return None
    return marker if is_sound(folder, marker, verify) else None


def filled_with(folder: str) -> str | None:
    """Fingerprint of the settings that filled a folder, finished or not; None if it is empty.

    Without an index, it is that of the first readable marker of a killed job.
    """
    if (whole := _spec_hash(folder, "index.json")) is not None:
        return whole
    names = (name for name in sorted(storage.written_below(folder)) if name.endswith(".json"))
    hashes = (_spec_hash(folder, name) for name in names)
    return next((found for found in hashes if found is not None), None)


def _spec_hash(folder: str, name: str) -> str | None:
    """The fingerprint of settings that a file states, if it is JSON and states one."""
    content = workspace.published(folder, name)
    return content["spec_hash"] if content and "spec_hash" in content else None


def to_be_cleared(folder: str, wanted: str | None) -> bool:
    """Whether a job that overwrites has to clear a folder first: it holds a finished result, or
    shards of other settings than those with this fingerprint (None: of any).

    Without an index, shards of these settings are what the same job made before it was killed.
    """
    finished = _spec_hash(folder, "index.json") is not None
    return finished or filled_with(folder) not in (None, wanted)


def clear(folder: str, kept: Iterable[str], made: re.Pattern[str]) -> None:
    """Delete what a job made in a folder, as `storage.keep_only`. The index goes last: a job that
    is killed meanwhile finds that the folder is still to be cleared."""
    storage.keep_only(folder, {*kept, "index.json"}, made)
    storage.delete(storage.join(folder, "index.json"))


def files_of(shards: Iterable[str]) -> set[str]:
    """Names of all files of a folder with an index and just these shards, and of its lock."""
    return {"index.json", lock.NAME} | {
        f"{name}.{kind}" for name in shards for kind in ("tar", "json")
    }


class _HasSum(Protocol):
    @property
    def sha256(self) -> str: ...


def content_fingerprint(markers: Iterable[_HasSum]) -> str:
    """The fingerprint that an index records of its shards, given in order."""
    return checksums.fingerprint([marker.sha256 for marker in markers])


def load_markers(
    folder: str, index: dict[str, Any], job: str, details: bool = True
) -> list[Marker]:
    """Markers of the shards of an index; `UserError` names the job that repairs a mismatch.

    Without `details`, which of clips are 2 kB a video, for those who only read samples.
    """

    def read(name: str) -> Marker | None:
        marker = read_marker(folder, name)
        return marker.bare() if marker and not details else marker

    names = names_in(folder, index, job)
    markers = list(read_all(read, names))
    for name, marker in zip(names, markers, strict=True):
        if marker is None:
            raise UserError(
                f"{storage.join(folder, name)}.tar has no marker: run jobs/{job}.py again with "
                "--verify"
            )
    found = [marker for marker in markers if marker]
    if content_fingerprint(found) != index["fingerprint"]:
        raise UserError(
            f"the shards of {folder} are not those of its index.json, perhaps because "
            f"jobs/{job}.py was stopped half-way: run jobs/{job}.py again, "
            "with --verify if that finds nothing to do"
        )
    return found
