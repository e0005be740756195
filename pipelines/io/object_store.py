"""What only object stores need: transfers that are checked, bulk deletion, unfinished uploads.

Requests are repeated by botocore and s3fs. What is repeated here are transfers that came to an
end, but to a wrong one: a body that was cut short, or a server that refuses or ignores ranges.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.callbacks import Callback

from pipelines.io import room
from pipelines.io.connection import is_no_bucket, store_of
from pipelines.io.scratch import scratch
from vqvdm.errors import UserError

BULK = 1000
"""Objects that S3 removes by one request."""
PART = 25 * 2**20
"""Bytes of a part; objects of two parts and more are uploaded by parts."""
PARTS = 10_000
"""Most parts of an object."""
LARGEST = 5 * 2**40
"""Bytes of the largest object that every S3 store takes."""
MEMORY = 2**27
"""Bytes of parts of one object that are on the way at a time; s3fs holds each in memory."""
ATTEMPTS = 3
BROKEN_BODIES = {"ResponseStreamingError", "IncompleteReadError"}
"""Errors of botocore while a body is read."""
PAUSE_S = 0.5
"""Before a transfer is repeated; then twice as long."""


def is_s3(fs: fsspec.AbstractFileSystem) -> bool:
    return "s3" in fs.protocol


def part_bytes(size: int) -> int:
    """The size of the parts of an object; `UserError` if it is too large for S3."""
    if size > LARGEST:
        raise UserError(
            f"a file of {room.amount(size)} is too large for an object store, which takes at most "
            f"{room.amount(LARGEST)}: make smaller shards (--videos-per-shard, --shard-mb)"
        )
    return max(PART, -(-size // PARTS))


class _Progress(Callback):
    """Counts the bytes that arrive; a file that does not fit is refused before it is written."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def set_size(self, size: int | None) -> None:
        super().set_size(size)
        room.refuse_too_little(self.folder, size or 0)


def download(fs: fsspec.AbstractFileSystem, path: str, place: str) -> None:
    """Copy an object to a local file, whole; `UserError` if there is no room for it."""
    folder = os.path.dirname(place)
    for pause_s, options in _attempts(fs):
        progress = _Progress(folder)
        try:
            fs.get_file(path, place, callback=progress, **options)
            wanted = fs.size(path) if progress.size is None else progress.size
            # Parts that are missing leave holes, and the size is right all the same.
            arrived = progress.value if is_s3(fs) else wanted
            if arrived == wanted == os.path.getsize(place):
                return
            failure: Exception = OSError(f"{arrived} of {wanted} bytes arrived")
        except Exception as error:
            if isinstance(error, OSError) and error.errno in room.FULL:
                cure, reason = room.SCRATCH_CURE, error.strerror
                raise room.no_room(folder, progress.size, cure, reason) from error
            if not _may_be_repeated(error):
                raise
            failure = error
        time.sleep(pause_s)
    raise failure


def _may_be_repeated(error: Exception) -> bool:
    """Whether a transfer broke. Stores that cannot be reached, or are overloaded, have been waited
    for by botocore and s3fs already."""
    if isinstance(error, FileNotFoundError | PermissionError):
        return False
    library, _, _ = type(error).__module__.partition(".")
    if library == "botocore":
        return type(error).__name__ in BROKEN_BODIES
    return library == "aiohttp" or (isinstance(error, OSError) and error.errno != errno.EBUSY)


def _attempts(fs: fsspec.AbstractFileSystem) -> Iterator[tuple[float, dict[str, Any]]]:
    """Pauses after attempts, and their options: after the first, no ranges are asked for."""
    for attempt in range(ATTEMPTS):
        parts = _parts(PART, 1 if attempt else PARTS) if is_s3(fs) else {}
        yield PAUSE_S * 2**attempt if attempt < ATTEMPTS - 1 else 0.0, parts


def _parts(part: int, most: int = PARTS) -> dict[str, Any]:
    """Options of a transfer in parts of so many bytes, at most so many of them at a time."""
    return {"chunksize": part, "max_concurrency": max(1, min(most, MEMORY // part))}


def read(fs: fsspec.AbstractFileSystem, path: str) -> bytes:
    """A whole object in memory, in one stream, whose end s3fs checks and repeats."""
    return fs.cat_file(path, **({"max_concurrency": 1} if is_s3(fs) else {}))


def read_head(fs: fsspec.AbstractFileSystem, path: str, size: int) -> bytes:
    """The first bytes of an object, also from a server that refuses or ignores ranges."""
    try:
        head = fs.cat_file(path, start=0, end=size)
        if len(head) >= min(size, fs.size(path)):
            return head[:size]
    except Exception as error:
        if not _may_be_repeated(error):
            raise
    with scratch() as folder:
        download(fs, path, str(folder / "object"))
        with open(folder / "object", "rb") as file:
            return file.read(size)


def read_range(fs: fsspec.AbstractFileSystem, path: str, start: int, end: int) -> bytes:
    """A part of an object; `OSError` where the server sends another one."""
    failure: Exception | None = None
    for pause_s, _ in _attempts(fs):
        try:
            found = fs.cat_file(path, start=start, end=end)
            if len(found) == end - start:
                return found
            failure = OSError(f"{len(found)} of {end - start} bytes arrived")
        except Exception as error:
            if not _may_be_repeated(error):
                raise
            failure = error
        time.sleep(pause_s)
    assert failure is not None
    raise failure


def upload(fs: fsspec.AbstractFileSystem, source: str | Path | bytes, uri: str, path: str) -> None:
    """Store a local file, or bytes, as an object, and make sure that it is what was sent."""
    if not is_s3(fs):
        put(fs, source, path)
        return
    wanted, failure = _Content(source), None
    for pause_s, _ in _attempts(fs):
        try:
            put(fs, source, path)
            failure = None
        except OSError as error:
            # The answer may have been lost after an upload was completed: then it is gone.
            if is_no_bucket(error) or not (
                isinstance(error, FileNotFoundError) or _may_be_repeated(error)
            ):
                raise
            failure = error
        if wanted.is_at(fs, path):
            return
        time.sleep(pause_s)
    if failure:
        raise OSError(failure.errno, str(failure)) from failure
    with suppress(Exception):
        fs.rm_file(path)
    raise UserError(
        f"{store_of(uri)} does not keep what is sent to it: {uri} differed from the {wanted.size} "
        f"bytes that were written, {ATTEMPTS} times, and was removed. Servers that store the "
        "framing of uploads (aws-chunked) need AWS_REQUEST_CHECKSUM_CALCULATION=when_required; "
        "otherwise choose another store"
    )


def put(fs: fsspec.AbstractFileSystem, source: str | Path | bytes, path: str) -> None:
    """Store a local file, or bytes, as an object, unchecked."""
    send: Callable[..., None] = fs.pipe_file if isinstance(source, bytes) else fs.put_file
    options = _parts(part_bytes(_size(source))) if is_s3(fs) else {}
    if isinstance(source, bytes):
        send(path, source, **options)
    else:
        send(str(source), path, **options)


def _size(source: str | Path | bytes) -> int:
    return len(source) if isinstance(source, bytes) else os.path.getsize(source)


class _Content:
    """What an object should contain."""

    def __init__(self, source: str | Path | bytes) -> None:
        self.source, self.size = source, _size(source)
        with self._open() as file:
            self.etags = _etags(file, part_bytes(self.size))

    def _open(self) -> BinaryIO:
        return (
            io.BytesIO(self.source) if isinstance(self.source, bytes) else open(self.source, "rb")
        )

    def is_at(self, fs: fsspec.AbstractFileSystem, path: str) -> bool:
        """Whether an object has this content.

        The etag of an object that is not encrypted by keys of the user is an MD5. Where it is
        not, the object is read.
        """
        try:
            found = fs.info(path)
        except FileNotFoundError:
            return False
        if found["size"] != self.size:
            return False
        if str(found.get("ETag")).strip('"') in self.etags:
            return True
        with scratch() as folder:
            copy = folder / "object"
            download(fs, path, str(copy))
            with open(copy, "rb") as stored, self._open() as sent:
                return _sha256(stored) == _sha256(sent)


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _etags(file: BinaryIO, part: int) -> set[str]:
    """The etags of S3: the MD5 of the content, or of the MD5s of its parts, with their number."""
    whole, parts = hashlib.md5(usedforsecurity=False), []
    while block := file.read(part):
        whole.update(block)
        parts.append(hashlib.md5(block, usedforsecurity=False).digest())
    together = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
    return {whole.hexdigest(), f"{together}-{len(parts)}"}


def abort_uploads(fs: Any, path: str) -> None:
    """Abort the unfinished multi-part uploads to an object, or below a prefix."""
    bucket, _, key = path.partition("/")
    page: dict[str, Any] = {"IsTruncated": True}
    after: dict[str, str] = {}
    while page.get("IsTruncated") and after.get("KeyMarker", "from the start"):
        page = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key, **after)
        after = {
            "KeyMarker": page.get("NextKeyMarker", ""),
            "UploadIdMarker": page.get("NextUploadIdMarker", ""),
        }
        for upload in page.get("Uploads", []):
            if upload["Key"] == key or upload["Key"].startswith(f"{key}/"):
                fs.call_s3(
                    "abort_multipart_upload",
                    Bucket=bucket,
                    Key=upload["Key"],
                    UploadId=upload["UploadId"],
                )


def delete(fs: fsspec.AbstractFileSystem, path: str) -> None:
    """Remove an object, and all below its name."""
    remove(fs, fs.find(path))


def remove(fs: fsspec.AbstractFileSystem, names: list[str]) -> None:
    """Remove objects, and nothing below their names; many at once where the store may take that."""
    if is_s3(fs) and len(names) > 1:
        for start in range(0, len(names), BULK):
            _delete_many(fs, names[start : start + BULK])
    else:
        for name in names:
            fs.rm_file(name)


def _delete_many(fs: fsspec.AbstractFileSystem, names: list[str]) -> None:
    """Remove objects of S3 by one request; one by one what the server did not remove that way."""
    bucket = names[0].partition("/")[0]
    keys = [name.partition("/")[2] for name in names]
    try:
        answer = fs.call_s3(
            "delete_objects", Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]}
        )
        removed = {each["Key"] for each in answer.get("Deleted", [])}
    except OSError:
        removed = set()
    for name, key in zip(names, keys, strict=True):
        if key not in removed:
            fs.rm_file(name)
