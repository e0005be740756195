"""Large files as several sources: spans of them, which are cut into clips by tasks of their own.

How many there are is a function of the size alone: planning looks into no file. When a span begins
is told by the header, once its task has it. Of a file in an object store each task reads the parts
that its span needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from pipelines.io import storage
from pipelines.io.connection import is_local
from pipelines.sharding.addresses import is_url
from pipelines.sharding.manifest import Source
from pipelines.sharding.settings import Selection
from pipelines.video import remote
from pipelines.video.file_names import suffix
from pipelines.video.reasons import VideoError
from pipelines.video.remote import Read
from vqvdm.errors import UserError

INDEXED = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"))
"""Suffixes of formats whose key frames are found without reading what lies before them."""


def divided(sources: Iterable[Source], selection: Selection) -> Iterator[Source]:
    """The same sources, large files as their spans."""
    most = (selection.span_mb or 0) * 2**20
    for source in sources:
        if most and source.size and source.size > most and _may_be_divided(source):
            spans = -(-source.size // most)
            yield from (replace(source, span=number + 1, spans=spans) for number in range(spans))
        else:
            yield source


def _may_be_divided(source: Source) -> bool:
    """Whether it is a file, all of it, of which parts can be read where it lies: another one would
    be fetched for each span."""
    is_file = source.container is None and source.frames_fps is None and source.refused is None
    is_all = source.start_s is None and source.end_s is None
    return is_file and is_all and not is_url(source.uri) and suffix(source.uri) in INDEXED


def remote_path(source: Source) -> str | None:
    """What a span of a file in an object store is opened by; None for all other sources."""
    if source.span is None or is_local(source.uri):
        return None
    return remote.as_path(source.uri, source.size or 0)


@contextmanager
def parts_read(source: Source) -> Iterator[Read | None]:
    """What reads parts of the file of a span, which has to stay as it was listed; None for sources
    that are local.

    Errors are those of `storage`, and `UserError` where it is another file by now.
    """
    if remote_path(source) is None:
        yield None
        return
    _refuse_changed(source)
    try:
        yield partial(storage.read_range, source.uri)
    except VideoError:  # What was changed meanwhile may look damaged.
        _refuse_changed(source)
        raise
    _refuse_changed(source)


def _refuse_changed(source: Source) -> None:
    found = storage.info(source.uri)
    if found is None:
        raise FileNotFoundError(source.uri)
    if (found.size, found.etag) != (source.size, source.etag):
        raise UserError(
            f"{source.uri} has changed since it was listed: run the same command again, when "
            "nobody writes there"
        )
