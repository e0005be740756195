"""Tar files of videos, such as WebDataset's shards: members are read where they lie.

A set of tars stands for the folder that they would unpack to: the same paths, so the same ids and
clips. Only headers are read for the listing, and the small files that describe a video: those of
its own name but for the suffix, or of its key, such as `key.json` for `key.left.mp4`. `.json` gives
label and further columns, `.cls` the label, `.txt` the caption.
"""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from pipelines.io import storage
from pipelines.io.disk import FileInfo
from pipelines.io.readers import read_all
from pipelines.io.scratch import scratch
from pipelines.sharding.columns import as_text, chosen
from pipelines.sharding.inputs.kind import Listed, Place, may_be_video, print_skipped
from pipelines.sharding.manifest import Source
from pipelines.sharding.settings import Selection
from pipelines.sharding.splits import SPLIT_OF
from pipelines.sharding.table import Row
from pipelines.video.file_names import is_hidden, suffix
from pipelines.video.reasons import VideoError
from vqvdm.errors import UserError

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
DESCRIBING = (".json", ".txt", ".cls")
MAX_TEXT = 2**20
"""Bytes of the largest file that describes a video."""
DAMAGE = (tarfile.TarError, ValueError, OverflowError, EOFError, MemoryError)
"""What `tarfile` raises for headers that are not sound."""


def takes(place: Place) -> bool:
    if place.uri.lower().endswith(COMPRESSED) and place.names_files:
        raise UserError(
            f"--videos {place.uri}: members of a compressed tar cannot be read one by one: "
            "decompress it (gunzip, or what its suffix says) to a .tar"
        )
    return bool(place.files_of(".tar"))


def listed(place: Place, selection: Selection) -> Iterator[Listed]:
    if selection.frames_fps is not None:
        raise UserError("--frames-fps: folders of images are not taken from a tar: unpack it")
    tars = place.files_of(".tar")
    contents = list(read_all(lambda tar: read_headers(tar, selection), tars))
    print_skipped(
        sum(content.hidden for content in contents),
        sum((content.skipped for content in contents), Counter[str]()),
    )
    counts = Counter(path for content in contents for path in content.videos)
    for tar, content in zip(tars, contents, strict=True):
        for path, video in content.videos.items():
            # A name that several tars have gets its tar's name in front.
            unique = path if counts[path] == 1 else f"{place.relative(tar.uri)}/{path}"
            yield replace(video, path=unique, inner_path=path)
        if content.refused:
            name = place.relative(tar.uri)
            yield Listed(name, tar, container=tar.uri, refused=content.refused)
    if not counts and not any(content.refused for content in contents):
        raise UserError(f"no videos in {place.uri}: pass --videos tar files that have some")


def holds(source: Source) -> bool:
    return source.container is not None and source.container.lower().endswith(".tar")


@contextmanager
def fetch(source: Source) -> Iterator[str]:
    assert source.container and source.position is not None and source.size is not None, source
    with scratch() as folder:
        place = folder / f"member{PurePosixPath(source.path).suffix}"
        try:
            storage.copy_range(source.container, source.position, source.size, place)
        except (OSError, UserError):
            _refuse_shorter(source.container, source.position + source.size)
            raise
        yield str(place)


def _refuse_shorter(tar: str, end: int) -> None:
    """`VideoError` if a tar has become shorter than when it was listed."""
    now = storage.info(tar)
    if now is not None and now.size < end:
        raise VideoError("damaged_tar", f"it has {now.size} bytes now, the video ends at {end}")


@dataclass
class Contents:
    """What the headers of a tar say."""

    videos: dict[str, Listed] = field(default_factory=dict)
    """By path; of several members of one path the last, as if unpacked."""
    texts: dict[str, dict[str, bytes | None]] = field(default_factory=dict)
    """Files that describe videos: path without suffix to suffix to content, or None if that is too
    long. They describe videos of that path, and those whose key it is."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Files of other kinds, by suffix."""
    hidden: int = 0
    refused: str | None = None
    """Why the rest of the tar cannot be read."""


def read_headers(tar: FileInfo, selection: Selection) -> Contents:
    """The videos of one tar, with what the files beside them say."""
    contents = Contents()
    if not tar.size:
        is_there = tar.etag or tar.mtime_ns
        contents.refused = "empty: no bytes" if is_there else "missing: no such file"
        return contents
    with storage.opened(tar.uri) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:", errorlevel=2) as archive:
                for member in archive:
                    _add(contents, member, archive, tar)
                contents.refused = _after_last(archive, tar)
        except UserError:
            raise  # Storage did not answer.
        except DAMAGE as error:
            contents.refused = f"damaged_tar: {error}"
    for path, video in contents.videos.items():
        texts = contents.texts.get(_key(path), {}) | contents.texts.get(_stem(path), {})
        try:
            contents.videos[path] = replace(video, row=_row(path, texts, selection, tar.uri))
        except UserError:
            raise
        except ValueError as error:
            contents.videos[path] = replace(video, refused=f"bad_description: {error}")
    return contents


def _add(
    contents: Contents, member: tarfile.TarInfo, archive: tarfile.TarFile, tar: FileInfo
) -> None:
    path = posixpath.normpath(member.name)
    if member.isdir():
        return
    if is_hidden(path) and not path.startswith("../"):
        contents.hidden += 1
        return
    ending = suffix(path)
    if ending in DESCRIBING and member.isreg():
        text = None
        if member.size <= MAX_TEXT and (content := archive.extractfile(member)):
            text = content.read()
        contents.texts.setdefault(_stem(path), {})[ending] = text
    elif may_be_video(path):
        info = FileInfo(f"{tar.uri}/{path}", member.size, tar.etag, tar.mtime_ns)
        refused = _why_refused(member, path, tar)
        contents.videos[path] = Listed(path, info, tar.uri, member.offset_data, refused)
    else:
        contents.skipped[ending] += 1


def _why_refused(member: tarfile.TarInfo, path: str, tar: FileInfo) -> str | None:
    if path.startswith(("/", "../")):
        return "not_a_member: its name leads out of the tar"
    if member.issparse():
        return "not_a_member: a sparse file"
    if member.issym() or member.islnk():
        return f"not_a_member: a link to {member.linkname}"
    if not member.isreg():
        return "not_a_member: a device or pipe"
    missing = member.offset_data + member.size - tar.size
    return f"damaged_tar: its last {missing} bytes are missing" if missing > 0 else None


def _after_last(archive: tarfile.TarFile, tar: FileInfo) -> str | None:
    """Why there may be more than what was read; None if the tar has a proper end."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    block = archive.fileobj.read(tarfile.BLOCKSIZE)
    if not block:
        return "damaged_tar: it has no end mark; members may be missing"
    if block.strip(b"\0"):
        return f"damaged_tar: the rest after byte {archive.offset} of {tar.size} cannot be read"
    return None


def _stem(path: str) -> str:
    return posixpath.splitext(path)[0]


def _key(path: str) -> str:
    """WebDataset's key: the path up to the first dot of its name."""
    folder, name = posixpath.split(path)
    return posixpath.join(folder, name.split(".", 1)[0])


def _row(path: str, texts: dict[str, bytes | None], selection: Selection, origin: str) -> Row:
    """What the files beside a video say; `ValueError` where they cannot be read."""
    decoded = {}
    for ending, content in texts.items():
        if content is None:
            raise ValueError(f"{ending} is longer than {MAX_TEXT} bytes")
        decoded[ending] = content.decode("utf-8-sig")
    said = _object(decoded.get(".json", "{}"))
    for name, ending in (("label", ".cls"), ("caption", ".txt")):
        if ending in decoded and said.get(name) is None:
            said[name] = decoded[ending].strip()
    label, split = said.pop("label", None), said.pop("split", None)
    if isinstance(label, bool | list | dict):
        raise ValueError("label is no text or number")
    if split is not None and str(split).lower() not in SPLIT_OF:
        raise ValueError(f"split {split!r} is none of train, val, test")
    names = chosen(said, selection, f"{origin} ({path})")
    return Row(
        path,
        None if label in (None, "") else str(label),
        SPLIT_OF[str(split).lower()] if split is not None else None,
        columns=as_text({name: said[name] for name in names}),
    )


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("its JSON is no object")
    return found
