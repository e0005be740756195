"""The page of an inspection: self-contained HTML, from a template."""

from __future__ import annotations

import base64
import io
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from PIL import Image

from pipelines.inspection.findings import Finding
from pipelines.inspection.pixels import Pixels
from pipelines.inspection.videos import Bars, Videos
from pipelines.video import Frames

SHOWN_CLASSES = 24
"""Classes with a picture on the page."""
LISTED_CLASSES = 200
"""Classes in the table."""


def page(
    root: str, index: dict[str, Any], videos: Videos, pixels: Pixels, findings: list[Finding]
) -> str:
    """HTML with findings, classes, lengths, sizes, rates and pictures of clips."""
    charts = {
        "Length": videos.durations,
        "Short side": videos.sides,
        "Frames a second": videos.rates,
    }
    names = [name for name in videos.classes if name in pixels.strips][:SHOWN_CLASSES]
    return _template().render(
        root=root,
        spec=index["spec"],
        videos=videos,
        words=videos.words,
        findings=findings,
        counted=count(findings),
        charts={name: _shares(bars) for name, bars in charts.items()},
        classes=list(videos.classes.items())[:LISTED_CLASSES],
        unlisted=max(0, len(videos.classes) - LISTED_CLASSES),
        most=max((each.clips.total() for each in videos.classes.values()), default=0) or 1,
        sheets=[(name, _picture(pixels.strips[name])) for name in names],
        looked=len(pixels.looks),
    )


def count(findings: list[Finding]) -> str:
    """How many findings of each kind, in words."""
    kinds = Counter(finding.kind for finding in findings)
    words = [f"{kinds[kind]} {kind}" for kind in ("wrong", "odd") if kinds[kind]]
    words += [f"{kinds['note']} note{'s' * (kinds['note'] > 1)}"] if kinds["note"] else []
    return ", ".join(words) or "nothing wrong or odd"


def as_json(index: dict[str, Any], videos: Videos, findings: list[Finding]) -> dict[str, Any]:
    """The content of `findings.json`."""
    return {
        "clips": index["fingerprint"],
        "videos": dict(sorted(videos.states.items())),
        "classes": {
            name: {"videos": dict(each.videos), "clips": dict(each.clips)}
            for name, each in videos.classes.items()
        },
        "findings": [
            {"kind": each.kind, "what": each.what, "cure": each.cure} for each in findings
        ],
    }


def _shares(bars: Bars) -> list[tuple[str, int, float]]:
    """Word, count, and length in percent of the longest, of bars that are not empty."""
    most = max((number for _, number in bars), default=0) or 1
    return [(word, number, 100 * number / most) for word, number in bars if number]


def _picture(strips: list[Frames]) -> str:
    """Clips below each other, as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(strips)).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


@cache
def _template() -> Template:
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    options: dict[str, Any] = {"autoescape": True, "undefined": StrictUndefined}
    environment = Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, **options)
    return environment.get_template("inspection.html")
