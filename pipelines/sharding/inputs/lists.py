"""A list of videos elsewhere: a text file with a URI a line, or a table that has a column of them.
Lines of a text file that begin with `#` are comments, unless they are names of files.

A path is a URL, another URI, absolute, or relative to the folder of the list. A table of Parquet
may be in parts.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice

from pipelines.io import storage
from pipelines.io.disk import FileInfo
from pipelines.io.readers import read_all
from pipelines.io.records import CHUNK, Records
from pipelines.sharding.addresses import bare, is_url, published, refuse_passwords
from pipelines.sharding.inputs import web
from pipelines.sharding.inputs.kind import Listed, Place
from pipelines.sharding.inputs.web import fetch, holds
from pipelines.sharding.settings import Selection
from pipelines.sharding.table import REPEATED, Reader, Row
from pipelines.video.file_names import suffix
from pipelines.video.reasons import VideoError
from vqvdm.errors import UserError

__all__ = ["fetch", "holds", "listed", "takes"]
SUFFIXES = (".txt", ".csv", ".jsonl")
MANY = 16
"""Files in one folder from which on it is listed."""
SHOWN = 100
"""Addresses that do not answer, of which each is named."""


def takes(place: Place) -> bool:
    return bool(_tables(place))


def _tables(place: Place) -> list[str]:
    """The files of a list: one, or those of a table of Parquet."""
    if place.names_files and suffix(place.uri) in SUFFIXES:
        return [place.uri]
    return [file.uri for file in place.files_of(".parquet")]


def listed(place: Place, selection: Selection) -> Iterator[Listed]:
    if selection.frames_fps is not None:
        raise UserError("--frames-fps: a list names videos, not folders of images")
    rows = Records(Row, _rows(place, selection), REPEATED)
    for row, video in zip(rows, look_up(rows, place.base), strict=True):
        yield replace(video, row=row)


def _rows(place: Place, selection: Selection) -> Iterator[Row]:
    """The rows of all tables, their paths as a listing writes them."""
    for table in _tables(place):
        for row in read_list(table, selection):
            yield replace(row, path=as_listed(_beside(table, row.path), place.base))


def read_list(uri: str, selection: Selection) -> Iterator[Row]:
    """The rows of a list."""
    if not uri.lower().endswith(".txt"):
        yield from Reader("--videos", selection).videos(uri)
        return
    lines = map(str.strip, storage.read_text(uri, "--videos").splitlines())
    paths = [line for line in lines if line]
    comments = _comments(uri, paths)
    if comments:
        print(f"note: {len(comments)} lines of {uri} are skipped as comments (#)", flush=True)
    if len(comments) == len(paths):
        raise UserError(f"--videos {uri}: names no videos")
    yield from (Row(path) for number, path in enumerate(paths) if number not in comments)


def _comments(uri: str, lines: list[str]) -> set[int]:
    """Numbers of the lines that begin with # and name no file: names of downloads may begin so."""
    marked = [number for number, line in enumerate(lines) if line.startswith("#")]

    def names_file(number: int) -> bool:
        line = lines[number]
        return is_relative(line) and storage.info(_beside(uri, line)) is not None

    return {n for n, found in zip(marked, read_all(names_file, marked), strict=True) if not found}


def _beside(table: str, path: str) -> str:
    """The place of a path that may be relative to the folder of its table."""
    if not is_relative(path):
        return path
    return storage.join(posixpath.dirname(table), posixpath.normpath(path))


def as_listed(path: str, folder: str) -> str:
    """A path of a table as a listing writes it: relative if it lies below the folder."""
    if is_relative(path):
        return posixpath.normpath(path)
    return path if is_url(path) else storage.absolute(path).removeprefix(f"{folder}/")


def is_relative(path: str) -> bool:
    return "://" not in path and not path.startswith("/")


def look_up(rows: Records[Row], folder: str) -> Iterator[Listed]:
    """Videos by their paths in a table, as `as_listed` writes them; many are asked for at a time.

    `UserError` where servers do not answer: a video must not pass for another one, whose clips
    would take the place of the good ones, because a server was away for a while.
    """
    refuse_passwords(rows.texts("path"))
    silent: list[str] = []

    def info(uri: str) -> FileInfo:
        try:
            found = web.info(uri) if is_url(uri) else storage.info(uri)
        except VideoError as error:
            silent.append(f"{bare(uri)} ({error.detail})")
            found = None
        return found or FileInfo(uri, 0)  # Its account will record it.

    uris = (storage.join(folder, p) if is_relative(p) else p for p in rows.texts("path"))
    names = published(lambda: rows.texts("path"))
    for path, name, file in zip(rows.texts("path"), names, _infos(uris, info), strict=True):
        if is_url(path):
            # A server need not say how long a video is.
            sized, address = file.size > 0, path if path != name else None
            yield Listed(name, replace(file, uri=name), is_sized=sized, address=address)
        else:
            yield Listed(path, file)
    if silent:
        print(*(f"no answer: {each}" for each in sorted(silent)[:SHOWN]), sep="\n", flush=True)
        raise UserError(
            f"{len(silent)} of {len(rows)} addresses do not answer, such as {min(silent)}: "
            "nothing was changed; try again later, or take them off the list"
        )


def _infos(uris: Iterator[str], ask: Callable[[str], FileInfo]) -> Iterator[FileInfo]:
    """The entries of files in order. Where many in a row lie in one folder of a store, its listing
    tells them by the thousand; the others are asked for one by one, many at a time."""
    while some := list(islice(uris, CHUNK)):
        names_of = defaultdict[str, list[str]](list)
        for uri in some:
            folder, _, name = uri.rpartition("/")
            names_of[folder].append(name)
        many = [each for each in names_of.items() if len(each[1]) >= MANY and not is_url(each[0])]
        known: dict[str, FileInfo] = {}
        for found in read_all(lambda each: storage.infos_below(*each), many):
            known |= found
        yield from read_all(partial(_info, known, ask), some)


def _info(known: dict[str, FileInfo], ask: Callable[[str], FileInfo], uri: str) -> FileInfo:
    return known.get(uri) or ask(uri)
