"""The tables of the VQ-VDM paper, what protocols fix, and where a run differs from that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    videos: Mapping[str, int] = field(default_factory=dict)
    """Videos of a split, where the number is known."""
    special: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By protocol: what it fixes otherwise on this data set than on others."""


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
    {"train": 9_537, "all": 13_320},
    {"tats": {"resizing": "bilinear, without antialiasing"}},
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
    special={"tats": {"draw": "one random clip a video"}},
)
SPEED = (("VDM", "16×64×64", "35.26 ± 2.43"), ("VQ-VDM (the paper)", "16×128×128", "3.95 ± 0.01"))
"""Seconds for 100 sampling steps; the paper names no batch size."""


REPRODUCED: tuple[str, ...] = ()
"""Published figures that this program has given with the published detector, and by which model.
While there are none, every report says so: an error in common to all figures cannot be excluded."""
RESIZING = "with antialiasing"
RESIZED = {
    "published": RESIZING,
    "tats": RESIZING,
    "stylegan-v": "Lanczos, then stored as JPEG",
}
"""How the clips of each protocol get their size; LARP's for `published`."""
DRAWS = {"videos": "one random clip a video", "clips": "any clip"}


@dataclass(frozen=True)
class Condition:
    """One thing that a protocol fixes, and what was done."""

    name: str
    protocol: str
    run: str

    @property
    def same(self) -> bool:
        return self.protocol == self.run

    def __str__(self) -> str:
        return f"{self.name}: {self.run} instead of {self.protocol}"


def applies(preset: str) -> bool:
    """Whether a preset is of the data set of a published table."""
    return preset.startswith(("ucf101", "sky"))


def table_for(preset: str) -> Table:
    """The published table nearest to a preset's data."""
    return SKY if preset.startswith("sky") else UCF101


def conditions(table: Table, protocol: dict[str, Any], spec: dict[str, Any]) -> list[Condition]:
    """All that the protocol fixes, beside what was done.

    `protocol` is that of `metrics.json`, `spec` that of the clips. A run by no published protocol
    stands beside `published`.
    """
    name = protocol["name"] if protocol["name"] in RESIZED else "published"
    card, special = PROTOCOLS[name], table.special.get(name, {})
    names = " or ".join(RESIZED) if name != protocol["name"] else name
    found = [
        Condition("protocol", names, protocol["name"]),
        Condition("classes", str(table.classes), str(len(spec["classes"]))),
        Condition(
            "samples by captions", "0", f"{protocol.get('captions', {}).get('samples_told', 0):,}"
        ),
        *_clips(spec),
        Condition("resizing", special.get("resizing", RESIZED[name]), RESIZING),
        Condition("split of real clips", card.real_split, protocol["real_split"]),
        Condition(
            "draw of real clips",
            special.get("draw", DRAWS[card.real_draw]),
            DRAWS[protocol["real_draw"]],
        ),
        Condition("rates of real clips", "all", _rates(protocol.get("real_fps"))),
        Condition("real clips", f"{card.num_samples:,}", f"{protocol['real_clips']:,}"),
        Condition("samples", f"{card.num_samples:,}", f"{protocol['samples']:,}"),
        Condition("repeats", str(card.repeats), str(protocol["repeats"])),
        Condition("covariance", f"by N−{card.ddof}", f"by N−{protocol['covariance_ddof']}"),
        Condition("detector", "i3d", protocol["detector"]["name"]),
    ]
    if known := table.videos.get(card.real_split):
        found.append(Condition("videos of the split", f"{known:,}", f"{protocol['videos']:,}"))
    if "is" in table.metrics:
        by = (protocol["classifier"] or {}).get("name", "none")
        found += [
            Condition("classifier of the inception score", "c3d", by),
            # The scores of the table are of one split; ten of 2,048 videos cap it.
            Condition("splits of the inception score", "1", str(protocol["is_splits"])),
        ]
    return found


def _clips(spec: dict[str, Any]) -> list[Condition]:
    """How clips are cut. Older indices lack what could not be chosen then."""
    rates = spec["rates"]
    every = "every frame of the video"
    filters = {name: value for name, value in spec.get("filters", {}).items() if value}
    return [
        Condition("frames", "16", str(spec["frames"])),
        Condition("size", "128×128", f"{spec['size']}×{spec['size']}"),
        Condition(
            "frame rate",
            every,
            every if rates == [None] else f"resampled to {_rates(rates)}",
        ),
        Condition(
            "starts of windows",
            "any frame",
            "any frame" if spec["stride"] == 1 else f"every {spec['stride']} frames",
        ),
        Condition("cut at scene changes", "no", _yes(spec.get("scenes", "none") != "none")),
        Condition("bars cropped", "no", _yes(spec.get("crop_bars", False))),
        Condition("filters", "none", ", ".join(f"{k} {v:g}" for k, v in filters.items()) or "none"),
    ]


def _rates(rates: Sequence[float] | None) -> str:
    return "all" if rates is None else f"{', '.join(f'{rate:g}' for rate in rates)} fps"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def doubts(table: Table) -> list[str]:
    """What keeps figures from being sure to compare even where nothing differs."""
    data_set = table.title.split(",")[0]
    found = [
        "the paper does not state its protocol: its table has figures of several papers, and "
        "nothing here tells which of them followed this one",
        f"whether the videos are {data_set} is judged by their number and classes only",
    ]
    if "is" in table.metrics:
        found.append(
            "the published C3D has no checksum that is known here: any file in its place is "
            "taken for it"
        )
    if not REPRODUCED:
        found.insert(
            0,
            "no published figure has been reproduced by this program with the published detector "
            "so far: an error in common to all its figures cannot be excluded",
        )
    return found
