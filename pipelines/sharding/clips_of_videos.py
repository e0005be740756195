"""Which clips of a shard were cut from which video.

What stands beside a clip names its video, but does not tell parts of one video apart. So the marker
of a shard that has several parts of one has the keys of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from pipelines.io.markers import Marker
from pipelines.sharding import manifest
from pipelines.sharding.manifest import Source

PARTS = "parts"
"""Where the details of a marker have the keys of parts of videos, by the id of the part."""


def keys_of_parts(keys: Iterable[tuple[Source, list[str]]]) -> dict[str, Any]:
    """What a marker says of videos of which it has several parts: the keys of each."""
    keys = list(keys)
    count = Counter(source.path for source, _ in keys)
    parts = {source.id: sorted(of_part) for source, of_part in keys if count[source.path] > 1}
    return {PARTS: parts} if parts else {}


def keys_by_id(marker: Marker, source_of: Callable[[str], str]) -> dict[str, list[str]]:
    """The keys of the clips of each video, or part of one, by its id.

    `source_of` tells the `source` in the JSON of a clip by its key. Markers of earlier versions do
    not tell parts of one video in a shard apart: their clips are left out.
    """
    found: dict[str, list[str]] = dict(marker.details.get(PARTS, {}))
    of_parts = {key for keys in found.values() for key in keys}
    sources = [source for source, _ in manifest.from_marker(marker.details)]
    count = Counter(source.path for source in sources)
    single = {source.path: source.id for source in sources if count[source.path] == 1}
    for key in marker.keys:
        if key not in of_parts and (path := source_of(key)) in single:
            found.setdefault(single[path], []).append(key)
    return found
