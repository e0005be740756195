"""Large files as several sources: spans of them, which are cut into clips by tasks of their own.

How many there are is a function of the size alone: planning looks into no file. When a span begins
is told by the header, once its task has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from pipelines.io.connection import is_local
from pipelines.sharding.manifest import Source
from pipelines.sharding.settings import Selection
from pipelines.video.file_names import suffix

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
    """Whether it is a file, all of it, that is read where it lies: other ones would be fetched for
    each span."""
    is_file = source.container is None and source.frames_fps is None and source.refused is None
    is_all = source.start_s is None and source.end_s is None
    return is_file and is_all and is_local(source.uri) and suffix(source.uri) in INDEXED
