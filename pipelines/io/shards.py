"""WebDataset shards: tar files of samples, each with a marker that is written last.

A shard without its marker does not exist. The marker `NAME.json` beside `NAME.tar` states the
checksum, the size, the keys and what the shard was made from. Members are sorted and carry no
time, so the same samples give the same bytes.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import webdataset as wds

from pipelines.io import storage
from vqvdm.errors import UserError

SPLITS = ("train", "val")


@dataclass(frozen=True)
class Marker:
    """What is known of a finished shard."""

    name: str
    sha256: str
    bytes: int
    keys: list[str]
    sources: list[str]
    """Ids of what the shard was made from: videos, or the clip shard."""
    spec_hash: str
    """Fingerprint of the settings, the same for all shards of a folder."""
    made_from: str
    """Fingerprint of all that the content depends on: sources, settings, code of the format."""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def split(self) -> str:
        return self.name.split("-")[0]


def to_json(marker: Marker) -> bytes:
    return storage.json_bytes(asdict(marker))


def from_json(data: bytes) -> Marker:
    return Marker(**json.loads(data))


def shard_name(split: str, index: int) -> str:
    return f"{split}-{index:06d}"


class ShardWriter:
    """Collects encoded samples in a temporary folder, then publishes them as one shard.

    Samples wait on disk and not in memory: a shard may be larger than a worker's share of it.
    """

    def __init__(self, folder: str, name: str) -> None:
        self.folder, self.name = folder, name
        self.keys: set[str] = set()
        self._spool = tempfile.TemporaryDirectory(prefix="vqvdm-shard-")

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.cleanup()

    def add(self, key: str, members: dict[str, bytes]) -> None:
        """Add a sample: file extension to content. Keys are unique and hold no dot."""
        assert "." not in key and key not in self.keys, key
        self.keys.add(key)
        for extension, content in members.items():
            Path(self._spool.name, f"{key}.{extension}").write_bytes(content)

    def drop(self, keys: Iterable[str]) -> None:
        """Take samples out again."""
        for key in keys:
            self.keys.remove(key)
            for file in Path(self._spool.name).glob(f"{key}.*"):
                file.unlink()

    def publish(
        self, sources: list[str], spec_hash: str, made_from: str, details: dict[str, Any]
    ) -> Marker:
        """Write the tar, put it in its place, then its marker."""
        tar = Path(self._spool.name, ".shard.tar")
        members = sorted(name for name in os.listdir(self._spool.name) if name[0] != ".")
        with open(tar, "wb") as file, wds.TarWriter(file, encoder=False, mtime=0) as writer:
            for name in members:
                key, extension = name.split(".", 1)
                content = Path(self._spool.name, name).read_bytes()
                writer.write({"__key__": key, extension: content})
        marker = Marker(
            self.name,
            storage.sha256(str(tar)),
            tar.stat().st_size,
            sorted(self.keys),
            sources,
            spec_hash,
            made_from,
            details,
        )
        storage.publish_file(tar, storage.join(self.folder, f"{self.name}.tar"))
        storage.publish_bytes(to_json(marker), storage.join(self.folder, f"{self.name}.json"))
        return marker


def read_marker(folder: str, name: str) -> Marker | None:
    """The marker of a shard, or None where the shard does not exist."""
    try:
        return from_json(storage.read_bytes(storage.join(folder, f"{name}.json")))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, TypeError) as error:
        raise UserError(f"{storage.join(folder, name)}.json is no marker: delete it") from error


def is_intact(folder: str, marker: Marker) -> bool:
    """Whether a shard's tar is there and matches its marker."""
    try:
        return storage.sha256(storage.join(folder, f"{marker.name}.tar")) == marker.sha256
    except FileNotFoundError:
        return False


def finished(folder: str, name: str, made_from: str) -> Marker | None:
    """The marker of a shard that is there, intact and made from just this; else None."""
    marker = read_marker(folder, name)
    if marker is None or marker.made_from != made_from or not is_intact(folder, marker):
        return None
    return marker


def filled_with(folder: str) -> str | None:
    """The settings' fingerprint of what lies in a folder, finished or not; None if nothing."""
    files = [file.uri for file in storage.walk(folder) if file.uri.endswith(".json")]
    # "index.json" sorts before any shard; without it, the shards of a killed job tell.
    return storage.read_json(files[0])["spec_hash"] if files else None


def sweep(folder: str, names: list[str]) -> None:
    """Delete all that is neither the index nor one of the named shards."""
    wanted = {"index.json"} | {f"{name}.{kind}" for name in names for kind in ("tar", "json")}
    for file in storage.walk(folder):
        if file.uri[len(folder) + 1 :] not in wanted:
            storage.delete(file.uri)


def load_markers(folder: str, names: list[str], job: str) -> list[Marker]:
    """The markers of the shards an index names; names the job that mends a missing one."""
    markers = []
    for name in names:
        marker = read_marker(folder, name)
        if marker is None:
            raise UserError(
                f"{storage.join(folder, name)}.tar has no marker: run jobs/{job}.py again"
            )
        markers.append(marker)
    return markers


@dataclass
class ShardReader:
    """Random access to the samples of one shard, by key, in a local tar file."""

    path: str
    _members: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with tarfile.open(self.path) as tar:
            for member in tar:
                key, extension = member.name.split(".", 1)
                place = (member.offset_data, member.size)
                self._members.setdefault(key, {})[extension] = place

    def __getitem__(self, key: str) -> dict[str, bytes]:
        """Extension to content of one sample; `KeyError` where the shard does not hold it."""
        with open(self.path, "rb") as file:
            sample = {}
            for extension, (offset, size) in self._members[key].items():
                file.seek(offset)
                sample[extension] = file.read(size)
            return sample


@dataclass(frozen=True)
class Sample:
    """One sample of a shard."""

    key: str
    members: dict[str, bytes]


def read_shard(folder: str, marker: Marker, job: str) -> Iterator[Sample]:
    """Every sample of a verified shard in the order of its keys.

    `UserError` names the file and the job that mends it where the tar does not match.
    """
    uri = storage.join(folder, f"{marker.name}.tar")
    with missing_is_named(uri, job), storage.local_copy(uri) as path:
        verify_file(path, marker, uri, job)
        reader = ShardReader(path)
        for key in marker.keys:
            yield Sample(key, reader[key])


def peek(folder: str, marker: Marker, max_bytes: int) -> Iterator[Sample]:
    """The samples that lie wholly in the first bytes of a shard, unverified."""
    head = storage.read_head(storage.join(folder, f"{marker.name}.tar"), max_bytes)
    members: dict[str, dict[str, bytes]] = {}
    with suppress(tarfile.ReadError), tarfile.open(fileobj=io.BytesIO(head)) as tar:
        for member in tar:
            file = tar.extractfile(member)
            content = file.read() if file else b""
            if len(content) < member.size:
                break
            key, extension = member.name.split(".", 1)
            members.setdefault(key, {})[extension] = content
    for key, found in members.items():
        if "mp4" in found:
            yield Sample(key, found)


@contextmanager
def missing_is_named(uri: str, job: str) -> Iterator[None]:
    """Turn a missing shard into a `UserError` that names it and the job that mends it."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{uri} is missing: run jobs/{job}.py again to mend it") from None


def verify_file(path: str, marker: Marker, uri: str, job: str) -> None:
    """`UserError` unless the local file `path`, taken from `uri`, matches its marker."""
    if not os.path.exists(path) or storage.sha256(path) != marker.sha256:
        raise UserError(f"{uri} does not match its marker: run jobs/{job}.py again to mend it")
