"""Whether the shards of clips are all there, as large as their markers say, and of a handy size."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.inspection.findings import Finding
from pipelines.io import storage
from pipelines.io.markers import names_in, read_marker
from pipelines.io.shards import repair

COMPARED = 64
"""Shards whose size is compared with their marker's."""
SMALL, LARGE = 8 << 20, 2 << 30
"""Bytes of a shard that is handy, at least and at most."""
MANY = 64
"""Shards from which on small ones cost time."""


def check_shards(folder: str, index: dict[str, Any]) -> list[Finding]:
    """Compare a listing of the folder with its index, and some sizes with markers."""
    sizes = {file.uri[len(folder) + 1 :]: file.size for file in storage.walk(folder)}
    names, again = names_in(folder, index, "shard_videos"), repair("shard_videos")
    wanted = [f"{name}.{kind}" for name in names for kind in ("tar", "json")]
    found = [
        Finding("wrong", f"{folder}/{name} is missing", again)
        for name in wanted
        if name not in sizes
    ]
    whole = [name for name in names if {f"{name}.tar", f"{name}.json"} <= sizes.keys()]
    for place in np.unique(np.linspace(0, len(whole) - 1, min(COMPARED, len(whole))).astype(int)):
        name = whole[place]
        marker = read_marker(folder, name)
        if marker is None:
            found.append(Finding("wrong", f"{folder}/{name}.json is not readable", again))
        elif marker.bytes != sizes[f"{name}.tar"]:
            found.append(
                Finding(
                    "wrong",
                    f"{folder}/{name}.tar has {sizes[f'{name}.tar']} bytes instead of "
                    f"{marker.bytes}",
                    again,
                )
            )
    return found + _handy([sizes[f"{name}.tar"] for name in whole])


def _handy(sizes: list[int]) -> list[Finding]:
    if not sizes:
        return []
    middle = float(np.median(sizes))
    if middle < SMALL and len(sizes) >= MANY:
        words = f"{len(sizes)} shards of {middle / 2**20:.1f} MiB are small for an object store"
        return [Finding("note", words, "raise --videos-per-shard, or --shard-mb")]
    if middle > LARGE:
        words = f"shards of {middle / 2**30:.1f} GiB are large: a worker keeps several"
        return [Finding("note", words, "lower --videos-per-shard, --shard-mb or --span-mb")]
    return []
