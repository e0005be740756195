"""The tables of the VQ-VDM paper, and whether a run is comparable with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipelines.evaluation.protocols import PROTOCOLS


@dataclass(frozen=True)
class Row:
    """A line of a published table."""

    model: str
    kind: str
    figures: tuple[str, ...]
    """As they are printed in the paper; "–" for none."""


@dataclass(frozen=True)
class Table:
    """A table of the VQ-VDM paper."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    metrics: tuple[str, ...]
    """This project's metric for each column."""
    classes: int
    """Classes of the data set; 0 for none."""


UCF101 = Table(
    "UCF-101, 16 frames",
    ("IS ↑", "FVD ↓"),
    (
        Row("VideoGPT", "autoregressive, 128×128", ("24.69", "–")),
        Row("DVD-GAN", "GAN, 128×128", ("27.38", "–")),
        Row("TGANv2", "GAN, 128×128", ("28.87", "1209")),
        Row("DIGAN", "GAN, 128×128", ("32.70", "577")),
        Row("CogVideo", "autoregressive, 160×160, pre-trained", ("50.46", "626")),
        Row("VDM", "diffusion, 64×64", ("57.00", "–")),
        Row("TATS", "autoregressive, 128×128", ("79.28", "332")),
        Row("VQ-VDM (the paper)", "diffusion, 128×128", ("64.13", "425")),
    ),
    ("is", "fvd"),
    101,
)
SKY = Table(
    "Sky Time-lapse, 16 frames",
    ("FVD ↓", "KVD ↓"),
    (
        Row("MoCoGAN-HD", "GAN, 128×128", ("183.6", "13.9")),
        Row("DIGAN", "GAN, 128×128", ("114.6", "6.8")),
        Row("TATS", "autoregressive, 128×128", ("132.6", "5.7")),
        Row("VQ-VDM (the paper)", "diffusion, 128×128", ("109.4", "5.9")),
    ),
    ("fvd", "kvd"),
    0,
)
SPEED = (("VDM", "16×64×64", "35.26 ± 2.43"), ("VQ-VDM (the paper)", "16×128×128", "3.95 ± 0.01"))
"""Seconds for 100 sampling steps; the paper names no batch size."""


def table_for(preset: str) -> Table:
    """The published table nearest to a preset's data."""
    return SKY if preset.startswith("sky") else UCF101


def obstacles(table: Table, protocol: dict[str, Any], spec: dict[str, Any]) -> list[str]:
    """Why a run's figures are not comparable with a published table; empty if they are.

    `protocol` is that of `metrics.json`, `spec` that of the clips.
    """
    found = []
    if len(spec["classes"]) != table.classes:
        found.append(
            f"the data have {len(spec['classes'])} classes, {table.title.split(',')[0]} "
            f"has {table.classes or 'none'}"
        )
    if (spec["frames"], spec["size"]) != (16, 128):
        found.append(f"clips are {spec['frames']}×{spec['size']}×{spec['size']}, not 16×128×128")
    if spec["rates"] != [None]:
        found.append("clips were resampled to other frame rates: published ones take every frame")
    if "fvd" in table.metrics and protocol["detector"]["name"] != "i3d":
        found.append(f"the detector is {protocol['detector']['name']}, not the published I3D")
    if "is" in table.metrics and (protocol["classifier"] or {}).get("name") != "c3d":
        found.append("the classifier of the inception score is not the published C3D")
    for what in ("samples", "real_clips"):
        if protocol[what] != 2048:
            found.append(f"{protocol[what]} {what.replace('_', ' ')} instead of 2,048")
    if protocol["name"] == "held-out":
        return [*found, "the protocol is held-out, no published one"]
    card = PROTOCOLS[protocol["name"]]
    for what in ("repeats", "real_split", "real_draw"):
        if protocol[what] != getattr(card, what):
            name = what.replace("_", " ")
            found.append(f"{name} {protocol[what]} instead of the protocol's {getattr(card, what)}")
    if "is" in table.metrics and card.is_splits > 1:
        found.append(
            f"the inception score is over {card.is_splits} splits of a set, which caps it; "
            "the table's are over one"
        )
    return found
