"""What every kind of input is asked: to list its videos, and to fetch one of them.

A kind is a module with the functions of `Kind`; `sources.KINDS` has all of them.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from braceexpand import braceexpand

from pipelines.io import storage
from pipelines.io.disk import FileInfo
from pipelines.io.readers import read_all
from pipelines.sharding.manifest import Source
from pipelines.sharding.settings import Selection
from pipelines.sharding.table import Row
from pipelines.video.file_names import NO_VIDEOS, is_hidden, suffix
from pipelines.video.header import IMAGES
from vqvdm.errors import UserError

WILD = re.compile("[*?{]")
"""What makes a pattern of a name that no file has."""
FEW = 100
"""Files without a suffix at most that do not tell the kind of a folder: `_SUCCESS`, `README` and
`SHA256SUMS` lie beside tables and tars, and videos without a suffix are many."""


@dataclass(frozen=True)
class Listed:
    """A video of an input, before its label and split are decided."""

    path: str
    """Relative to the input, or where it lies elsewhere."""
    file: FileInfo
    container: str | None = None
    position: int | None = None
    refused: str | None = None
    """As in `Source`."""
    inner_path: str = ""
    """Its path in its container, if `path` is another."""
    is_sized: bool = True
    """Whether the size of `file` is that of the video."""
    address: str | None = None
    """As in `Source`."""
    row: Row | None = None
    """What the input itself says of the video: label, split, part, further columns."""


class Kind(Protocol):
    """A kind of input."""

    def takes(self, place: Place) -> bool:
        """Whether --videos names such an input; `UserError` if it is one that cannot be read."""

    def listed(self, place: Place, selection: Selection) -> Iterable[Listed]:
        """Its videos, from names and headers alone; `UserError` where there are none."""

    def holds(self, source: Source) -> bool:
        """Whether a video is fetched by this kind: of two that hold it, by the first."""

    def fetch(self, source: Source) -> AbstractContextManager[str]:
        """A local path of a video. Errors are `VideoError`, or those of `storage`."""


@dataclass(frozen=True)
class Place:
    """What --videos names: a file, a pattern of files, or a folder, listed once."""

    uri: str
    has_frames: bool = False
    """Whether images are videos, by --frames-fps."""
    root: str = ""
    """A folder below it of which nothing is an input: what jobs make."""

    @cached_property
    def _listing(self) -> Iterator[FileInfo]:
        files = storage.listed(self.uri, folders=True)
        return (file for file in files if not self._is_of_root(file.uri))

    def _is_of_root(self, uri: str) -> bool:
        return bool(self.root) and f"{uri}/".startswith(f"{self.root}/")

    @cached_property
    def _seen(self) -> list[FileInfo]:
        return []

    @property
    def everything(self) -> Iterator[FileInfo]:
        """All files and folders below it, in any order. As much is listed as is taken, and kept:
        what kind of input it is, the first video tells."""
        yield from self._seen
        for file in self._listing:
            self._seen.append(file)
            yield file

    def drained(self) -> Iterator[FileInfo]:
        """As `everything`, for the last time: there may be millions that nobody keeps."""
        yield from self._seen
        yield from self._listing

    @property
    def files(self) -> Iterator[FileInfo]:
        """As `everything`, without hidden and system names."""
        return (file for file in self.everything if not is_hidden(self.relative(file.uri)))

    @cached_property
    def names_files(self) -> bool:
        """Whether it is a file, or a pattern of files, by its suffix; a folder may have any."""
        return suffix(self.uri) in NO_VIDEOS and (
            storage.info(self.uri) is not None or next(self.everything, None) is None
        )

    @cached_property
    def base(self) -> str:
        """The folder that names are relative to."""
        return posixpath.dirname(WILD.split(self.uri)[0]) if self.names_files else self.uri

    def relative(self, uri: str) -> str:
        """The name of a file below it. Names of objects may begin with a slash."""
        return uri.removeprefix(self.base).lstrip("/")

    def files_of(self, ending: str) -> list[FileInfo]:
        """The files with an ending that it consists of: one, those of a pattern, or those of a
        folder without any videos. A name that exists is no pattern. Of a list in braces, files
        that are missing have no size."""
        if not self.names_files:
            found, unnamed = [], 0
            for file in self.files:
                if file.is_folder:
                    continue
                unnamed += not suffix(file.uri)
                is_video = suffix(file.uri) and self._holds_video(file.uri)
                if is_video or unnamed > FEW:
                    return []
                if file.uri.lower().endswith(ending):
                    found.append(file)
            return sorted(found, key=lambda file: file.uri)
        return self._named if self.uri.lower().endswith(ending) else []

    def print_unnamed(self) -> None:
        """Print how many files without a suffix lie beside the tars or tables of a folder."""
        if self.names_files:
            return
        if unnamed := sum(not f.is_folder and not suffix(f.uri) for f in self.files):
            print(f"note: {unnamed} files without a suffix are not taken for videos", flush=True)

    def _holds_video(self, name: str) -> bool:
        return self.has_frames if suffix(name) in IMAGES else may_be_video(name)

    @cached_property
    def _named(self) -> list[FileInfo]:
        """The files of a name, or of a pattern."""
        if found := storage.info(self.uri):
            return [found]
        files = [file for some in read_all(_matching, self._braces()) for file in some]
        if not any(file.size for file in files):
            raise UserError(f"--videos {self.uri}: no such file")
        return files

    def _braces(self) -> list[str]:
        try:
            return list(braceexpand(self.uri, escape=False))
        except ValueError as error:  # Unbalanced braces.
            raise UserError(f"--videos {self.uri}: {error}") from None


def _matching(name: str) -> list[FileInfo]:
    """The files that a name with `*` and `?` fits; of a plain name also one that is missing."""
    if not WILD.search(name):
        return [storage.info(name) or FileInfo(name, 0)]
    fixed = posixpath.dirname(WILD.split(name)[0])
    signs = {"*": "[^/]*", "?": "[^/]"}
    pattern = re.compile("".join(signs.get(sign, re.escape(sign)) for sign in name))
    return [file for file in storage.walk(fixed) if pattern.fullmatch(file.uri)]


def may_be_video(name: str) -> bool:
    ending = suffix(name)
    return ending not in NO_VIDEOS and ending not in IMAGES


def print_skipped(hidden: int, endings: Counter[str]) -> None:
    """Print how many files are skipped: the hidden ones, and those of other kinds by suffix."""
    if hidden:
        print(f"note: {hidden} hidden or system files are skipped", flush=True)
    if endings:
        order = sorted(endings.items(), key=lambda each: (-each[1], each[0]))
        kinds = ", ".join(f"{count} {ending}" for ending, count in order[:5])
        if others := sum(count for _, count in order[5:]):
            kinds += f", {others} others"
        print(f"note: {endings.total()} files are skipped as not videos ({kinds})", flush=True)
