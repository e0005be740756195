"""Rows of benchmarks/results.json: a ratio each, and the floor it must not fall below."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from pipelines.cluster.cores import local_cpus

PLACE = Path(__file__).parent / "results.json"


@dataclass(frozen=True)
class Row:
    """How this project compares with a peer; above 1 is better."""

    name: str
    peer: str
    ratio: float
    """Of the medians over the repeats."""
    floor: float
    low: float
    """The least and the greatest ratio of one repeat."""
    high: float
    note: str


def row(name: str, peer: str, pairs: Sequence[tuple[float, float]], floor: float, note: str) -> Row:
    """The row of repeats measured in turns: the first of each pair as a multiple of the second."""
    first, second = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    each = [a / b for a, b in pairs]
    ratio, floor, low, high = (round(x, 3) for x in (first / second, floor, min(each), max(each)))
    return Row(name, peer, ratio, floor, low, high, f"{note}; {machine()}")


def machine() -> str:
    """What a figure was measured on, and with which code."""
    kind = torch.backends.cpu.get_cpu_capability()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray"))
    commit = git("rev-parse", "--short", "HEAD") or "not known"
    # What benchmarks write themselves is no change of what they measure.
    code = git("diff", "--name-only", "HEAD", "--", ":!/benchmarks/*.json", ":!/docs/*.png")
    changed = " with changes" if code else ""
    return (
        f"{local_cpus()} cores, {platform.machine()} {kind}, Python {platform.python_version()}, "
        f"{versions}, commit {commit}{changed}"
    )


def git(*arguments: str) -> str:
    command = ["git", "-C", str(PLACE.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def record(rows: Sequence[Row]) -> int:
    """Put rows in the place of those of the same name and peer; 1 if one is below its floor."""
    known = json.loads(PLACE.read_text()) if PLACE.exists() else []
    table = {(old["name"], old["peer"]): old for old in known}
    for new in rows:
        table[new.name, new.peer] = asdict(new)
        print(
            f"{new.name} against {new.peer}: {new.ratio:.2f} ({new.low:.2f} to {new.high:.2f}), "
            f"at least {new.floor:.2f} wanted",
            flush=True,
        )
    PLACE.write_text(json.dumps(list(table.values()), indent=1, ensure_ascii=False) + "\n")
    return int(any(new.ratio < new.floor for new in rows))


def table() -> str:
    """All rows on record, a line each."""
    lines = [f"{'':<46}{'against':<56}{'ratio':>8}{'floor':>8}{'spread':>18}"]
    for known in json.loads(PLACE.read_text()):
        ratio, floor = (f"{known[name]:.3g}" for name in ("ratio", "floor"))
        spread = f"{known['low']:.3g} to {known['high']:.3g}"
        missed = "  missed" if known["ratio"] < known["floor"] else ""
        name, peer = known["name"], known["peer"]
        lines.append(f"{name:<46}{peer:<56}{ratio:>8}{floor:>8}{spread:>18}{missed}")
    return "\n".join(lines)
