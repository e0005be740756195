"""The file of figures: saved whole after each one, so that a run that is cut short has the rest."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
TFLOPS = {
    "H200": 989.0, "H100 PCIE": 756.0, "H100 NVL": 835.0, "H100": 989.0, "A100": 312.0,
    "A10G": 70.0, "L40S": 362.0, "L4": 121.0, "RTX 4090": 165.0, "V100": 125.0, "T4": 65.0,
}  # fmt: skip
"""Dense half-precision matrix products with fp32 sums, from the makers' data sheets, in TFLOP/s;
the first part of a name that fits counts."""
COMMIT = "VQVDM_COMMIT"
"""Environment variable: the commit, where the code was copied without its history."""


@dataclass(frozen=True)
class Floor:
    """What is wanted of a figure."""

    figure: str
    value: float
    at_most: bool = False
    """Whether less is better."""

    def met(self, figure: float) -> bool:
        return figure <= self.value if self.at_most else figure >= self.value


FLOORS = (
    Floor("times faster, 100 steps, 1 clip", 40.0),
    Floor("a clip by 100 steps", 0.15, at_most=True),
    Floor("a clip by 20 steps", 0.03, at_most=True),
    Floor("stage two", 3000.0),
    Floor("stage one", 150.0),
    Floor("MFU of stage two", 0.3),
    Floor("MFU of stage one", 0.3),
)


def peak_tflops(name: str) -> float | None:
    """What a card does at best in half precision; None for one that is not in the table."""
    return next((peak for part, peak in TFLOPS.items() if part in name.upper()), None)


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on, and with which code."""
    found: dict[str, Any] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": device.type,
        "card": "CPU",
        "peak_tflops": None,
        "driver": None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "cores": os.cpu_count(),
        "commit": os.environ.get(COMMIT) or _git("rev-parse", "--short", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "-uno")),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "card": properties.name,
            "peak_tflops": peak_tflops(properties.name),
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "capability": [properties.major, properties.minor],
        }
        query = ("--query-gpu=driver_version", "--format=csv,noheader")
        found["driver"] = _output("nvidia-smi", *query)
    return found


def _git(*arguments: str) -> str | None:
    return _output("git", "-C", str(ROOT), *arguments)


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else None


class Record:
    """Figures by name, and what became of the rest."""

    def __init__(
        self, path: Path, device: torch.device, minutes: float, rehearsal: bool, only: str = ""
    ) -> None:
        self.path, self.until = path, time.monotonic() + 60 * minutes
        self.only = re.compile(only)
        self.data: dict[str, Any] = {
            "machine": machine(device),
            "rehearsal": rehearsal,
            "figures": {},
            "errors": {},
            "skipped": [],
            "floors": [],
        }
        self.save()

    def part(self, name: str, work: Callable[[], None]) -> None:
        """One part of the work: what goes wrong in it is recorded, and does not end the rest."""
        if not self.only.search(name):
            return
        if time.monotonic() > self.until:
            self.data["skipped"].append(name)
            self.save()
            return
        since = time.monotonic()
        try:
            work()
        except Exception as error:
            traceback.print_exc(limit=-4, file=sys.stderr)
            text = str(error).strip().splitlines()
            self.data["errors"][name] = f"{type(error).__name__}: {' '.join(text[:3])}"[:600]
        print(f"-- {name}: {time.monotonic() - since:.0f} s", flush=True)
        self.save()

    def add(self, name: str, values: Sequence[float], unit: str, **notes: Any) -> float:
        """A figure: the median of several repeats."""
        median = statistics.median(values)
        self.data["figures"][name] = {
            "value": median,
            "unit": unit,
            "least": min(values),
            "most": max(values),
            "repeats": len(values),
        } | notes
        words = " ".join(f"{key} {value}" for key, value in notes.items())
        print(f"{name}: {median:.4g} {unit} ({min(values):.4g} to {max(values):.4g}) {words}",
              flush=True)  # fmt: skip
        self.save()
        return median

    def best(self, name: str, of: Sequence[str]) -> float | None:
        """The least of several figures that are there, under a name of its own."""
        there = [each for each in of if each in self.data["figures"]]
        if not there:
            return None
        least = min(there, key=lambda each: self.data["figures"][each]["value"])
        figure = self.data["figures"][least]
        self.data["figures"][name] = figure | {"by": least}
        return figure["value"]

    def save(self) -> None:
        figures = self.data["figures"]
        self.data["floors"] = [
            asdict(floor) | {"measured": figures[floor.figure]["value"],
                             "met": floor.met(figures[floor.figure]["value"])}
            for floor in FLOORS if floor.figure in figures
        ]  # fmt: skip
        text = json.dumps(self.data, indent=1, ensure_ascii=False) + "\n"
        new = self.path.with_name(self.path.name + ".new")
        new.write_text(text)
        new.replace(self.path)
