"""WebDataset shards: tar files of samples, written with a marker and checked against it.

Members are sorted and have no time stamp, so the same samples give the same bytes.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from pipelines.io import room, storage
from pipelines.io.markers import Marker
from pipelines.io.scratch import scratch
from vqvdm.errors import UserError

BUFFER = 2**20
HEADERS = 2**16
"""Bytes that are read beyond the end of a member, for the header of the next one."""
CLIP = "mkv"
"""The member of a sample that holds its video."""
EARLIER_CLIP = "mp4"
"""Its name in shards that `shard_videos` no longer makes, and that can be trained on."""


Members = dict[str, tuple[int, int]]
"""Where the members of a sample lie in a file: extension to offset and size."""


def _read(file: BinaryIO, members: Members) -> dict[str, bytes]:
    sample = {}
    for extension, (offset, size) in members.items():
        file.seek(offset)
        sample[extension] = file.read(size)
    return sample


def _plain_files(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of a shard; `tarfile.ReadError` for a link, or a sparse file: a few bytes may
    claim to be any number of zeros."""
    for member in tar:
        if not member.isreg() or member.issparse():
            raise tarfile.ReadError(f"{member.name} is no plain file")
        yield member


def _member(name: str, size: int) -> tarfile.TarInfo:
    """The header of a member, the same bytes as of `webdataset.TarWriter`: importing that loads
    PyTorch, which takes each worker seconds and 184 MB."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.uname, member.gname = size, 0o444, "bigdata", "bigdata"
    return member


class ShardWriter:
    """Collects encoded samples in a temporary folder, then publishes them as one shard.

    Samples are collected on disk, since a shard may be larger than a worker's share of memory.
    """

    def __init__(self, folder: str, name: str) -> None:
        self.folder, self.name = folder, name
        self._members: dict[str, Members] = {}
        self._close = ExitStack()

    def __enter__(self) -> ShardWriter:
        self._place = self._close.enter_context(scratch())
        # A single file: making and removing one for each member takes as long as writing them.
        with room.filling(self._place.parent, None, room.SCRATCH_CURE):
            self._spool = open(self._place / "spool", "w+b")
        self._close.callback(self._close_spool)
        return self

    def _close_spool(self) -> None:
        # Its disk may be full: closing writes what is still in memory.
        with suppress(OSError):
            self._spool.close()

    def __exit__(self, *error: Any) -> None:
        self._close.__exit__(*error)

    @property
    def keys(self) -> list[str]:
        return sorted(self._members)

    def add(self, key: str, members: dict[str, bytes]) -> None:
        """Add a sample: file extension to content. Keys are unique and hold no dot."""
        assert "." not in key and key not in self._members, key
        self._members[key] = {}
        for extension, content in members.items():
            start, size = self._spool.tell(), len(content)
            with room.filling(self._place.parent, start + size, room.SCRATCH_CURE):
                self._spool.write(content)
            self._members[key][extension] = (start, size)

    def drop(self, keys: Iterable[str]) -> None:
        """Remove samples."""
        for key in keys:
            del self._members[key]

    def publish(
        self, sources: list[str], spec_hash: str, made_from: str, details: dict[str, Any]
    ) -> Marker:
        """Write and publish the tar, then its marker."""
        tar = self._place / "shard.tar"
        wanted = sum(size for members in self._members.values() for _, size in members.values())
        with (
            room.filling(self._place.parent, wanted, room.SCRATCH_CURE),
            open(tar, "wb", buffering=BUFFER) as file,
            tarfile.open(fileobj=file, mode="w") as writer,
        ):
            for key in self.keys:
                for extension, (offset, size) in sorted(self._members[key].items()):
                    self._spool.seek(offset)
                    writer.addfile(_member(f"{key}.{extension}", size), self._spool)
        marker = Marker(
            self.name,
            storage.sha256(str(tar)),
            tar.stat().st_size,
            self.keys,
            sources,
            spec_hash,
            made_from,
            details,
        )
        storage.publish_file(tar, storage.join(self.folder, f"{self.name}.tar"))
        storage.publish_bytes(marker.to_json(), storage.join(self.folder, f"{self.name}.json"))
        return marker


@dataclass
class ShardReader:
    """Random access to the samples of one shard, by key, in a local tar file."""

    path: str
    _members: dict[str, Members] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with tarfile.open(self.path) as tar:
            for member in _plain_files(tar):
                key, extension = member.name.split(".", 1)
                place = (member.offset_data, member.size)
                self._members.setdefault(key, {})[extension] = place

    @property
    def keys(self) -> list[str]:
        return list(self._members)

    def __getitem__(self, key: str) -> dict[str, bytes]:
        """Extension to content of one sample; `KeyError` if it is not in the shard."""
        with open(self.path, "rb") as file:
            return _read(file, self._members[key])

    def clip(self, key: str) -> bytes:
        """The video of a sample, of which no other member is read."""
        return self.member(key, _clip_among(self._members[key]))

    def member(self, key: str, extension: str) -> bytes:
        """One member of a sample, of which no other is read; `KeyError` if there is none."""
        with open(self.path, "rb") as file:
            return _read(file, {extension: self._members[key][extension]})[extension]


@dataclass(frozen=True)
class Sample:
    """One sample of a shard."""

    key: str
    members: dict[str, bytes]


def clip_of(members: Mapping[str, bytes]) -> bytes:
    """The video of a sample."""
    return members[_clip_among(members)]


def _clip_among(members: Container[str]) -> str:
    return CLIP if CLIP in members else EARLIER_CLIP


def read_shard(folder: str, marker: Marker, job: str) -> Iterator[Sample]:
    """Every sample of a verified shard in the order of its keys.

    `UserError` names the file and the job that repairs it if the tar does not match.
    """
    uri = storage.join(folder, f"{marker.name}.tar")
    with missing_is_named(uri, job), storage.local_copy(uri) as path:
        reader = open_verified(path, marker, uri, job)
        for key in marker.keys:
            yield Sample(key, reader[key])


def open_verified(path: str, marker: Marker, uri: str, job: str) -> ShardReader:
    """Open a local copy of the shard at `uri`; `UserError` unless it matches its marker."""
    verify_file(path, marker, uri, job)
    try:
        reader = ShardReader(path)
    except tarfile.ReadError as error:
        raise UserError(f"{uri} is no shard ({error}): {repair(job)}") from error
    check_keys(uri, reader.keys, marker.keys, job)
    return reader


def check_keys(uri: str, found: Iterable[str], wanted: Iterable[str], job: str) -> None:
    """`UserError` names a missing or an unexpected key of a shard."""
    found, wanted = set(found), set(wanted)
    for key in sorted(wanted - found):
        raise UserError(f"{uri} lacks the key {key}: {repair(job)}")
    for key in sorted(found - wanted):
        raise UserError(f"{uri} has the unexpected key {key}: {repair(job)}")


def peek(folder: str, name: str, max_bytes: int) -> Iterator[Sample]:
    """The samples that lie completely in the first bytes of a shard, unverified. Where the first
    one is larger than these, as much is read as it takes."""
    uri, wanted = storage.join(folder, f"{name}.tar"), max(max_bytes, HEADERS)
    while True:
        head = storage.read_head(uri, wanted)
        samples, end = _whole_samples(head)
        if samples or end is None or len(head) < wanted:
            yield from samples
            return
        wanted = end + HEADERS


def _whole_samples(head: bytes) -> tuple[list[Sample], int | None]:
    """The samples whose clip lies completely in the beginning of a shard, and where the member
    ends that is cut off, if one is."""
    members, end = dict[str, dict[str, bytes]](), None
    with suppress(tarfile.ReadError), tarfile.open(fileobj=io.BytesIO(head)) as tar:
        for member in _plain_files(tar):
            start, stop = member.offset_data, member.offset_data + member.size
            if stop > len(head):
                end = stop
                break
            key, extension = member.name.split(".", 1)
            members.setdefault(key, {})[extension] = head[start:stop]
    whole = {key: found for key, found in members.items() if CLIP in found or EARLIER_CLIP in found}
    return [Sample(key, found) for key, found in whole.items()], end


@contextmanager
def missing_is_named(uri: str, job: str) -> Iterator[None]:
    """Turn a missing shard into a `UserError` that names it and the job that repairs it."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{uri} is missing: run jobs/{job}.py again to repair it") from None


def refuse_lost(folder: str, markers: Iterable[Marker], job: str) -> None:
    """`UserError` names the first shard that is missing, or has another size than its marker says.

    One listing tells: workers, which read every byte, would find out later and at more length.
    """
    sizes = {file.uri: file.size for file in storage.walk(folder)}
    for marker in markers:
        uri = storage.join(folder, f"{marker.name}.tar")
        if uri not in sizes:
            raise UserError(f"{uri} is missing: run jobs/{job}.py again to repair it")
        if sizes[uri] != marker.bytes:
            raise _no_match(uri, job)


def repair(job: str) -> str:
    """What repairs a shard whose size and time may be those of a sound one."""
    return f"run jobs/{job}.py again with --verify to repair it"


def _no_match(uri: str, job: str) -> UserError:
    return UserError(f"{uri} does not match its marker: {repair(job)}")


def verify_file(path: str, marker: Marker, uri: str, job: str) -> None:
    """`UserError` unless the local file `path`, taken from `uri`, matches its marker."""
    if not os.path.exists(path):
        raise UserError(f"{uri} is missing: run jobs/{job}.py again to repair it")
    if storage.sha256(path) != marker.sha256:
        raise _no_match(uri, job)
