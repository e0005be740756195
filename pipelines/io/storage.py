"""Files under any fsspec URI: listed, read, and published so that none is half-written.

A local file is written beside its place and moved there; an object store lists an object only
once its upload is complete. Credentials and the endpoint of S3 come from the standard AWS
variables.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from fsspec.implementations.local import LocalFileSystem

from pipelines.io import disk, listing, object_store, room
from pipelines.io.checksums import json_bytes
from pipelines.io.connection import connect, explained, is_local
from pipelines.io.disk import FileInfo
from pipelines.io.scratch import scratch
from vqvdm.errors import UserError

BLOCK = 2**18
"""Bytes fetched at once from a remote file that is read here and there."""
RANGE = 2**24
"""Bytes of a part of a file that are in memory at a time."""


def join(uri: str, *parts: str) -> str:
    """Append path segments to a URI."""
    return "/".join([uri.rstrip("/"), *parts])


def absolute(uri: str) -> str:
    """A local path made absolute; other URIs as they are, without a trailing slash."""
    if not is_local(uri):
        return uri.rstrip("/")
    return os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))


def is_below(name: str) -> bool:
    """Whether a name leads to a file below the folder that it is joined to, and nowhere else."""
    parts = PurePosixPath(name).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts and "\0" not in name


def walk(uri: str) -> list[FileInfo]:
    """Every file below a folder or prefix, sorted by URI; none if there is no such place."""
    return sorted(listed(uri), key=lambda file: file.uri)


def listed(uri: str, folders: bool = False) -> Iterator[FileInfo]:
    """Every file below a folder or prefix, one after the other, in any order.

    With `folders`, those of a disk are listed too, also folders that may not be read; object
    stores have none.
    """
    fs, path = connect(uri)
    with explained(uri, "list"):
        if isinstance(fs, LocalFileSystem):
            yield from disk.walk(path, folders)
            return
        for name, info in listing.listed(fs, path):
            # URIs begin as the caller wrote the folder: file systems may write it differently.
            yield FileInfo(join(uri, name), int(info["size"] or 0), _etag(info))


TIMES = ("LastModified", "last_modified", "mtime")
"""Names that file systems give in a listing to the time when an object was written."""
STAMPS = ("ETag", "etag", "LastModified", "last_modified", "updated", "created")
"""Names that file systems give to such values."""


def _etag(info: dict[str, Any]) -> str | None:
    """A value that changes with an object: its etag, or else the time it was written."""
    stamp = next(filter(None, map(info.get, STAMPS)), None)
    return str(stamp).strip('"') if stamp else None


def info(uri: str) -> FileInfo | None:
    """The entry of one file in a listing; None if there is no such file."""
    fs, path = connect(uri)
    if isinstance(fs, LocalFileSystem):
        return disk.info(path) if os.path.isfile(path) else None
    try:
        with explained(uri, "read"):
            found = fs.info(path)
    except FileNotFoundError:
        return None
    return FileInfo(uri, int(found["size"] or 0), _etag(found))


def infos_below(folder: str, names: Collection[str]) -> dict[str, FileInfo]:
    """The entries of files right below a prefix by URI, where a store tells of many at a time; what
    is missing here, `info` may know."""
    fs, path = connect(folder)
    if not object_store.is_s3(fs):
        return {}
    try:
        with explained(folder, "list"):
            found = {join(folder, n): i for n, i in listing.listed_among(fs, path, names)}
    except FileNotFoundError:
        return {}
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError | PermissionError):
            return {}  # Who may not list a bucket may know what lies there.
        raise
    return {uri: FileInfo(uri, int(info["size"] or 0), _etag(info)) for uri, info in found.items()}


def written(uri: str) -> tuple[int, datetime] | None:
    """Size of a file, and when it was written; None if there is no such file."""
    fs, path = connect(uri)
    try:
        with explained(uri, "read"):
            return int(fs.info(path)["size"] or 0), fs.modified(path)
    except FileNotFoundError:
        return None


def written_below(folder: str) -> dict[str, tuple[int, datetime | None]]:
    """As `written`, for every file below a folder by its name there, from a single listing. There
    is no time where the listing does not tell it."""
    fs, path = connect(folder)
    with explained(folder, "list"):
        if isinstance(fs, LocalFileSystem):
            base = path.rstrip("/")
            return {
                file.uri[len(base) :].lstrip("/"): (file.size, _time(file.mtime_ns))
                for file in disk.walk(path, folders=False)
            }
        return {
            name: (
                int(info["size"] or 0),
                next((info[each] for each in TIMES if isinstance(info.get(each), datetime)), None),
            )
            for name, info in listing.listed(fs, path)
        }


def _time(stamp_ns: int | None) -> datetime | None:
    return None if stamp_ns is None else datetime.fromtimestamp(stamp_ns / 1e9, UTC)


def exists(uri: str) -> bool:
    fs, path = connect(uri)
    with explained(uri, "read"):
        return fs.exists(path)


def has_no_folder(uri: str) -> bool:
    """Whether a folder of a disk is not there, so that to write into it would make it. An object
    store has none that could be left behind."""
    fs, path = connect(uri)
    return isinstance(fs, LocalFileSystem) and not os.path.isdir(path)


def read_bytes(uri: str) -> bytes:
    """A whole file; `FileNotFoundError` if there is none."""
    fs, path = connect(uri)
    with explained(uri, "read"):
        return fs.cat_file(path) if is_local(uri) else object_store.read(fs, path)


def read_text(uri: str, flag: str) -> str:
    """A text file that the user named with a flag; `UserError` if it is missing or not UTF-8."""
    try:
        return read_bytes(uri).decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{flag} {uri}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{flag} {uri}: is not text in UTF-8: {error}") from None


def read_head(uri: str, size: int) -> bytes:
    """The first bytes of a file."""
    fs, path = connect(uri)
    with explained(uri, "read"):
        if is_local(uri):
            return fs.cat_file(path, start=0, end=size)
        return object_store.read_head(fs, path, size)


@contextmanager
def opened(uri: str) -> Iterator[BinaryIO]:
    """A file to read here and there; of a remote one, blocks of `BLOCK` bytes are fetched."""
    fs, path = connect(uri)
    with explained(uri, "read"):
        remote = {} if is_local(uri) else {"block_size": BLOCK, "cache_type": "readahead"}
        with fs.open(path, "rb", **remote) as file:
            yield file


def copy_range(uri: str, start: int, size: int, place: Path) -> None:
    """Copy a part of a file to a local one; `OSError` if it does not reach so far."""
    fs, path = connect(uri)
    with explained(uri, "read"), open(place, "wb") as target:
        room.refuse_too_little(place.parent, size)
        for first in range(start, start + size, RANGE):
            last = min(first + RANGE, start + size)
            if is_local(uri):
                block = fs.cat_file(path, start=first, end=last)
            else:
                block = object_store.read_range(fs, path, first, last)
            if len(block) != last - first:
                raise OSError(f"{uri} ends before byte {last}")
            target.write(block)


def read_range(uri: str, start: int, size: int) -> bytes:
    """A part of a file; `OSError` or `UserError` if it does not reach so far."""
    fs, path = connect(uri)
    with explained(uri, "read"):
        return object_store.read_range(fs, path, start, start + size)


def read_json(uri: str) -> Any:
    return json.loads(read_bytes(uri))


@contextmanager
def local_copy(uri: str) -> Iterator[str]:
    """A local path to read a file from: its own if it is local, else that of a temporary copy."""
    if is_local(uri):
        yield uri.removeprefix("file://")
        return
    _, path = connect(uri)
    with scratch() as folder:
        # A fixed name, which cannot be that of the folder's lock.
        place = folder / f"copy{PurePosixPath(path).suffix}"
        _download(uri, place)
        yield str(place)


@contextmanager
def copy_on_any_node(uri: str, flag: str) -> Iterator[str]:
    """As `local_copy`, for what the driver has found and a worker may lack: then a `UserError`
    names the flag and the node."""
    try:
        with local_copy(uri) as path:
            if not os.path.exists(path):
                raise FileNotFoundError(path)
            yield path
    except FileNotFoundError:
        raise UserError(
            f"{flag} {uri}: no such file on {socket.gethostname()}; put it where all nodes find "
            "it, such as below the root"
        ) from None


def _download(uri: str, place: Path) -> None:
    fs, path = connect(uri)
    with explained(uri, "read"):
        object_store.download(fs, path, str(place))


@contextmanager
def local_folder(uri: str) -> Iterator[str]:
    """As `local_copy`, for the files directly in a folder."""
    if is_local(uri):
        yield uri.removeprefix("file://")
        return
    with scratch() as folder:
        place = folder / "copy"
        place.mkdir()
        names = [name for name in written_below(uri) if "/" not in name]
        # The objects of a store may have any names.
        download_folder(uri, place, filter(is_below, names))
        yield str(place)


def download_folder(uri: str, folder: Path, names: Iterable[str]) -> None:
    """Copy the named files of a folder, which may lie in subfolders, into a local folder.
    `UserError` for a name that leads out of it."""
    for name in names:
        if not is_below(name):
            raise UserError(f"{uri} holds no {name!r}: no name of a file leads out of a folder")
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if is_local(uri):
            data = read_bytes(join(uri, name))
            with room.filling(folder, len(data), room.SCRATCH_CURE):
                target.write_bytes(data)
        else:
            _download(join(uri, name), target)


def publish_file(source: str | Path, uri: str) -> None:
    """Publish a local file at a URI, completely or not at all, and check that it is there."""
    fs, path = connect(uri)
    with explained(uri, "write"):
        if isinstance(fs, LocalFileSystem):
            disk.publish(path, os.path.getsize(source), partial(shutil.copyfile, source))
        else:
            object_store.upload(fs, source, uri, path)


def publish_bytes(data: bytes, uri: str, check: bool = True) -> None:
    """As `publish_file`, from memory.

    Where others may replace the file at the same time, `check=False` leaves it to them.
    """
    fs, path = connect(uri)
    with explained(uri, "write"):
        if isinstance(fs, LocalFileSystem):
            disk.publish(path, len(data), lambda part: Path(part).write_bytes(data))
        elif check:
            object_store.upload(fs, data, uri, path)
        else:
            object_store.put(fs, data, path)


def publish_json(value: Any, uri: str, check: bool = True) -> None:
    """As `publish_bytes`, from a JSON value."""
    publish_bytes(json_bytes(value), uri, check)


def discard_unfinished(uri: str) -> None:
    """Remove what killed writers left of a file, or of all files below a folder.

    These are parts beside a local file, and unfinished uploads, which an object store does not
    list but charges for. No other process may be writing there at the time.
    """
    fs, path = connect(uri)
    with explained(uri, "tidy"):
        if isinstance(fs, LocalFileSystem):
            disk.discard_parts(path)
        elif uri.startswith("s3://"):
            # Some credentials may not list uploads; then a lifecycle rule of the bucket has to
            # abort them. Some servers answer "not found" or "not implemented".
            with suppress(OSError):
                object_store.abort_uploads(fs, path)


def keep_only(
    folder: str, names: Iterable[str], made: re.Pattern[str]
) -> dict[str, tuple[int, datetime | None]]:
    """Of the files that a job makes, delete all below a folder except the named ones, also what
    killed writers left.

    `made` is what the job calls its files: others are somebody else's, and stay. Gives what is
    kept, as `written_below` does.
    """
    wanted, found = set(names), written_below(folder)
    fs, path = connect(folder)
    # Of each that very file: its name may be the beginning of another one's, which is to be kept.
    others = [n for n in found if n not in wanted and made.fullmatch(n)]
    others = [f"{path.rstrip('/')}/{n}" for n in others]
    with explained(folder, "delete"):
        if isinstance(fs, LocalFileSystem):
            for name in others:
                Path(name).unlink(missing_ok=True)
        else:
            object_store.remove(fs, others)
    discard_unfinished(folder)
    return {name: info for name, info in found.items() if name in wanted}


def delete(uri: str) -> None:
    """Remove a file or everything below a folder; does nothing if there is none.

    Names are literal: `rm` of a file system would take `[1]`, `*` and `?` for patterns.
    """
    fs, path = connect(uri)
    with explained(uri, "delete"):
        if not isinstance(fs, LocalFileSystem):
            object_store.delete(fs, path)
        elif os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            Path(path).unlink(missing_ok=True)


def sha256(uri: str) -> str:
    """Checksum of a file's content, read in blocks."""
    digest = hashlib.sha256()
    with local_copy(uri) as path, open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_or_none(uri: str) -> str | None:
    """As `sha256`; None where there is no such file."""
    try:
        return sha256(uri)
    except FileNotFoundError:
        return None
