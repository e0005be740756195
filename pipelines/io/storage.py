"""Files under any fsspec URI: listed, read, and published so that none is half-written.

A local file is written beside its place and moved there; an object store lists an object only
once its upload is complete. Credentials and the endpoint of S3 come from the standard AWS
variables.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from pipelines.io import object_store
from pipelines.io.checksums import json_bytes
from pipelines.io.connection import connect, explained, is_local
from pipelines.io.scratch import scratch
from vqvdm.errors import UserError


@dataclass(frozen=True)
class FileInfo:
    """A file in a listing. Object stores give an etag, disks a modification time."""

    uri: str
    size: int
    etag: str | None = None
    mtime_ns: int | None = None
    images: int = 0
    """Number of images, if it stands for a folder of them."""
    is_folder: bool = False
    unreadable: bool = False
    """Whether it is a folder that may not be read."""


def join(uri: str, *parts: str) -> str:
    """Append path segments to a URI."""
    return "/".join([uri.rstrip("/"), *parts])


def absolute(uri: str) -> str:
    """A local path made absolute; other URIs as they are, without a trailing slash."""
    if not is_local(uri):
        return uri.rstrip("/")
    return os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))


def walk(uri: str, folders: bool = False) -> list[FileInfo]:
    """Every file below a folder or prefix, sorted by URI; none if there is no such place.

    With `folders`, those of a disk are listed too, also folders that may not be read; object
    stores have none.
    """
    fs, path = connect(uri)
    with explained(uri, "list"):
        if isinstance(fs, LocalFileSystem):
            return _walk_local(path, folders)
        found = fs.find(path, detail=True)
    base = path.rstrip("/")
    files = [
        # URIs begin as the caller wrote the folder: file systems may write it differently.
        FileInfo(join(uri, name[len(base) :].lstrip("/")), int(info["size"] or 0), _etag(info))
        for name, info in found.items()
        if info["type"] == "file"
    ]
    return sorted(files, key=lambda file: file.uri)


def _etag(info: dict[str, Any]) -> str | None:
    """A value that changes with an object: its etag, or else the time it was written."""
    stamp = info.get("ETag") or info.get("LastModified") or info.get("created")
    return str(stamp).strip('"') if stamp else None


def _walk_local(path: str, folders: bool) -> list[FileInfo]:
    if os.path.isdir(path):
        os.listdir(path)  # A folder that may not be read is an error, not an empty folder.
    files, entered = [], set[tuple[int, int]]()

    def unreadable(error: OSError) -> None:
        if folders and error.filename != path:
            files.append(FileInfo(str(error.filename), 0, is_folder=True, unreadable=True))

    for folder, below, names in os.walk(path, onerror=unreadable, followlinks=True):
        below.sort()  # Of two links to one folder, the first by name is entered.
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in entered:
            below.clear()  # A link to a folder above, or to one listed before.
            continue
        entered.add((stat.st_dev, stat.st_ino))
        files += [_local_info(os.path.join(folder, name)) for name in names]
        if folders and folder != path:
            files.append(FileInfo(folder, 0, is_folder=True))
    return sorted(files, key=lambda file: file.uri)


def _local_info(place: str) -> FileInfo:
    try:
        stat = os.stat(place)
        return FileInfo(place, stat.st_size, mtime_ns=stat.st_mtime_ns)
    except OSError:
        return FileInfo(place, 0)  # A dangling link: rejected when it is opened.


def info(uri: str) -> FileInfo | None:
    """The entry of one file in a listing; None if there is no such file."""
    fs, path = connect(uri)
    if isinstance(fs, LocalFileSystem):
        return _local_info(path) if os.path.isfile(path) else None
    try:
        with explained(uri, "read"):
            found = fs.info(path)
    except FileNotFoundError:
        return None
    return FileInfo(uri, int(found["size"] or 0), _etag(found))


def exists(uri: str) -> bool:
    fs, path = connect(uri)
    with explained(uri, "read"):
        return fs.exists(path)


def read_bytes(uri: str) -> bytes:
    """A whole file; `FileNotFoundError` if there is none."""
    fs, path = connect(uri)
    with explained(uri, "read"):
        return fs.cat_file(path)


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
        return fs.cat_file(path, start=0, end=size)


def read_json(uri: str) -> Any:
    return json.loads(read_bytes(uri))


@contextmanager
def local_copy(uri: str) -> Iterator[str]:
    """A local path to read a file from: its own if it is local, else that of a temporary copy."""
    if is_local(uri):
        yield uri.removeprefix("file://")
        return
    fs, path = connect(uri)
    with scratch() as folder:
        # A fixed name, which cannot be that of the folder's lock.
        place = str(folder / f"copy{PurePosixPath(path).suffix}")
        with explained(uri, "read"):
            fs.get_file(path, place)
        yield place


@contextmanager
def local_folder(uri: str) -> Iterator[str]:
    """As `local_copy`, for the files directly in a folder."""
    if is_local(uri):
        yield uri.removeprefix("file://")
        return
    with tempfile.TemporaryDirectory(prefix="vqvdm-") as folder:
        names = [file.uri[len(uri) + 1 :] for file in walk(uri)]
        download_folder(uri, Path(folder), [name for name in names if "/" not in name])
        yield folder


def download_folder(uri: str, folder: Path, names: Iterable[str]) -> None:
    """Copy the named files of a folder, which may lie in subfolders, into a local folder."""
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(read_bytes(join(uri, name)))


def publish_file(source: str | Path, uri: str) -> None:
    """Publish a local file at a URI, completely or not at all, and check its size there."""
    fs, path = connect(uri)
    size = os.path.getsize(source)
    with explained(uri, "write"):
        if isinstance(fs, LocalFileSystem):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            beside = os.path.join(os.path.dirname(path), _part(os.path.basename(path)))
            try:
                shutil.copyfile(source, beside)
                os.replace(beside, path)
            finally:
                Path(beside).unlink(missing_ok=True)
        else:
            fs.put_file(str(source), path)
        written = fs.size(path)
    if written != size:
        raise OSError(f"{uri} holds {written} bytes after {size} were written: run the job again")


def _part(name: str) -> str:
    """The temporary name of a file while it is written."""
    return f".{name}.{uuid.uuid4().hex}.part"


def discard_unfinished(uri: str) -> None:
    """Remove what killed writers left of a file, or of all files below a folder.

    These are parts beside a local file, and unfinished uploads, which an object store does not
    list but charges for. No other process may be writing there at the time.
    """
    fs, path = connect(uri)
    with explained(uri, "tidy"):
        if isinstance(fs, LocalFileSystem):
            beside = Path(path).parent.glob(f".{glob.escape(os.path.basename(path))}.*.part")
            for part in [*beside, *Path(path).rglob(".*.part")]:
                part.unlink(missing_ok=True)
        elif uri.startswith("s3://"):
            # Some credentials may not list uploads; then a lifecycle rule of the bucket has to
            # abort them. Some servers answer "not found" instead of with an empty list.
            with suppress(PermissionError, NotImplementedError, FileNotFoundError):
                object_store.abort_uploads(fs, path)


def keep_only(folder: str, names: Iterable[str]) -> None:
    """Delete everything below a folder except the named files, also what killed writers left."""
    wanted = set(names)
    for file in walk(folder):
        if file.uri[len(folder) + 1 :] not in wanted:
            delete(file.uri)
    discard_unfinished(folder)


def publish_bytes(data: bytes, uri: str) -> None:
    """As `publish_file`, from memory."""
    with tempfile.NamedTemporaryFile(prefix="vqvdm-") as file:
        file.write(data)
        file.flush()
        publish_file(file.name, uri)


def publish_json(value: Any, uri: str) -> None:
    """As `publish_file`, from a JSON value."""
    publish_bytes(json_bytes(value), uri)


def delete(uri: str) -> None:
    """Remove a file or everything below a folder; does nothing if there is none.

    Names are literal: `rm` of a file system would take `[1]`, `*` and `?` for patterns.
    """
    fs, path = connect(uri)
    with explained(uri, "delete"):
        if not isinstance(fs, LocalFileSystem):
            object_store.delete(fs, path, uri.startswith("s3://"))
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
