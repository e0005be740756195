"""Rows of benchmarks/results.json: a ratio each, and the floor it must not fall below."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

PLACE = Path(__file__).parent / "results.json"


@dataclass(frozen=True)
class Row:
    """How this project compares with a peer; above 1 is better."""

    name: str
    peer: str
    ratio: float
    """Median over the repeats."""
    floor: float
    low: float
    high: float
    note: str


def row(name: str, peer: str, ratios: Sequence[float], floor: float, note: str) -> Row:
    """The row of repeats that were measured in turns."""
    values = [round(value, 3) for value in ratios]
    return Row(name, peer, statistics.median(values), floor, min(values), max(values), note)


def record(rows: Sequence[Row]) -> int:
    """Put rows in the place of those of the same name and peer; 1 if one is below its floor."""
    known = json.loads(PLACE.read_text()) if PLACE.exists() else []
    table = {(old["name"], old["peer"]): old for old in known}
    for new in rows:
        table[new.name, new.peer] = asdict(new)
        print(
            f"{new.name} against {new.peer}: {new.ratio:.2f} ({new.low:.2f} to {new.high:.2f}), "
            f"at least {new.floor:.2f} wanted"
        )
    PLACE.write_text(json.dumps(list(table.values()), indent=1) + "\n")
    return int(any(new.ratio < new.floor for new in rows))
