"""Further columns of a table, or of the JSON beside a video: captions, scores and whatever else.

They go into `{key}.json` of each clip as they are, and into `videos.parquet`, where lists and
objects are the text of their JSON. On their way they are the text of one JSON object a video.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import date, time, timedelta
from typing import Any

from pipelines.sharding.manifest import CLIP_FIELDS, PARTS, utf8
from pipelines.sharding.settings import Selection
from vqvdm.errors import UserError, did_you_mean, listed

RESERVED = frozenset(PARTS.names) | CLIP_FIELDS | {"path"}
"""Names that `videos.parquet` and `{key}.json` have for themselves."""


def chosen(names: Iterable[str], selection: Selection, origin: str) -> list[str]:
    """Those of the names that --columns asks for; `UserError` where one is reserved."""
    names = list(names)
    selection.met.update(names)
    if selection.columns != "all":
        names = [name for name in names if name in _asked(selection)]
    for name in names:
        if name in RESERVED:
            raise UserError(
                f"{origin}: the column {name} has a name that videos.parquet or the clips use: "
                "rename it, or name the ones to keep, as in --columns caption, or --columns none"
            )
    return names


def refuse_unknown(selection: Selection) -> None:
    """`UserError` where --columns asks for one that the whole listing did not meet."""
    for name in _asked(selection):
        if name not in selection.met:
            there = f"There: {listed(sorted(selection.met))}" if selection.met else "There are none"
            raise UserError(
                f"--columns {selection.columns}: no table, and no JSON beside a video, has a "
                f"further column {name}: {did_you_mean(name, selection.met)}{there}"
            )


def _asked(selection: Selection) -> list[str]:
    """Names that are asked for, one by one."""
    if selection.columns in ("all", "none"):
        return []
    return [name.strip() for name in selection.columns.split(",")]


def as_text(values: Mapping[str, Any]) -> str | None:
    """Columns of one video as the text of a JSON object; None where there are none."""
    return json.dumps(_plain(values), sort_keys=True) if values else None


def merged(earlier: str | None, later: str | None) -> str | None:
    """Both; of one name the later."""
    return as_text(from_text(earlier) | from_text(later))


def from_text(text: str | None) -> dict[str, Any]:
    return json.loads(text) if text else {}


def _plain(value: Any) -> Any:
    """A value of JSON: times in ISO 8601, what is not finite as null, text that UTF-8 has."""
    if isinstance(value, Mapping):
        return {utf8(str(key)): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return utf8(value if value is None or isinstance(value, str | bool | int) else str(value))
