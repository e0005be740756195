"""The evaluation report: one self-contained page, from a template.

Videos are embedded as MP4 files; the page loads nothing from elsewhere.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from pipelines.evaluation import published
from pipelines.video import Frames
from pipelines.video.encoder import encode_h264
from pipelines.video.grid import fit, grid

MEANING = {
    "fvd": "Fréchet video distance to real clips, lower is better",
    "kvd": "kernel video distance to real clips, lower is better; may fall below 0",
    "rfvd": "Fréchet distance of reconstructed from real clips, lower is better",
    "is": "inception score of samples, higher is better",
    "real/is": "inception score of real clips, for reference",
    "floor/fvd": "real against other real clips of the same proportions: the lowest to expect",
    "floor/kvd": "real against other real clips of the same proportions",
    "infinity/fvd": "FVD of infinitely many clips and samples: the line through FVD of parts",
    "is_split_std": "standard deviation over the splits of the first set",
    "psnr": "reconstruction, dB, higher is better",
    "ssim": "reconstruction, at most 1, higher is better",
    "lpips": "reconstruction, lower is better",
    "samples/clip_accuracy": "share of samples classified as their class",
    "samples/frame_accuracy": "share of single frames of samples classified as their class",
    "real/clip_accuracy": "share of real clips classified as their class",
    "real/frame_accuracy": "share of single frames of real clips classified as their class",
    "samples/displacement": "pixels that the brightest object moves a frame",
    "samples/displacement_ratio": "displacement at the lowest frame rate over that at the highest",
    "nearest/samples": "median of the distance to the nearest training clip over that to the 20th",
    "nearest/ratio": "samples over held-out clips: far below 1, most samples are copies",
    "nearest/close": "share of samples nearer than 95 of 100 held-out clips: far above 0.05, some "
    "are copies",
    "nearest/searched": "training clips that were searched",
}
CARDS = ("fvd", "kvd", "is", "rfvd", "psnr", "ssim", "lpips", "samples/clip_accuracy")
WORDS = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "samples/clip_accuracy": "Class accuracy",
}
SPEED = "speed/seconds_per_100_steps"


@dataclass
class Pair:
    """A real clip and its reconstruction."""

    title: str
    """Its class, and its caption where samples are told captions; empty without either."""
    fps: float
    real: Frames
    reconstructed: Frames


@dataclass
class Sample:
    """A sampled video, and the training clip nearest to it."""

    title: str
    """Class and caption that it was made of."""
    fps: float
    video: Frames
    place: int
    """Its position among the samples of the first repeat."""
    nearest: Frames | None = None
    nearest_source: str = ""
    nearest_fps: float = 0.0
    distance: float = 0.0
    relative: float = 1.0
    """The distance over that of the twentieth nearest."""


@dataclass
class ReportClips:
    """The videos on the report."""

    real: list[Pair] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    def ordered(self) -> ReportClips:
        return ReportClips(
            sorted(self.real, key=lambda each: each.title),
            sorted(self.samples, key=lambda each: each.title),
        )


def grid_of(shown: ReportClips) -> bytes:
    """A GIF with one row each of real clips, their reconstructions, and samples."""
    shown = shown.ordered()
    columns = min(8, len(shown.real), len(shown.samples))
    fits = fit(3, columns, shown.real[0].real.shape[:3])
    columns = fits.columns
    rows = [each.real for each in shown.real[:columns]]
    rows += [each.reconstructed for each in shown.real[:columns]]
    rows += [each.video for each in shown.samples[:columns]]
    fps = min(each.fps for each in shown.samples[:columns]) / fits.step
    return grid((video[:: fits.step] for video in rows), columns, fps, shrink=fits.shrink)


def page(
    bundle: dict[str, Any],
    spec: dict[str, Any],
    result: dict[str, Any],
    shown: ReportClips,
    card: str,
) -> str:
    """HTML with samples, real and reconstructed clips, all figures and what they depend on.

    `bundle` is the model's config.json, `card` its MODEL_CARD.md, `spec` that of the clips, and
    `result` the content of metrics.json.
    """
    table = published.table_for(result["preset"])
    shown = shown.ordered()
    return _template().render(
        result=result,
        bundle=bundle,
        spec=spec,
        table=table if published.applies(result["preset"]) else None,
        own_row=[_value(result, name) for name in table.metrics],
        speed_rows=published.SPEED,
        shape="×".join(map(str, (spec["frames"], spec["size"], spec["size"]))),
        cards=[card for name in CARDS for card in _cards(result, name)] + [_speed(result)],
        rows=_rows(result),
        trios=list(_trios(shown)),
        network=json.dumps({k: bundle[k] for k in ("model", "objective")}, indent=1),
        card=card,
        settings=json.dumps(result["settings"], indent=1),
    )


def _trios(shown: ReportClips) -> Iterator[tuple[Sample, Pair | None]]:
    """Each sample with a real clip of its title, if possible of its rate and one that no other has;
    those without a title with such clips one by one."""
    of_title = {each.title: each for each in shown.real if each.title}
    left: dict[tuple[str, float], list[Pair]] = {}

    def kind(each: Sample | Pair) -> tuple[str, float]:
        return each.title, each.fps if each.title else 0.0

    for real in shown.real:
        left.setdefault(kind(real), []).append(real)
    for sample in shown.samples:
        same = left.get(kind(sample))
        yield sample, same.pop(0) if same else of_title.get(sample.title)


def _base(name: str) -> str:
    """A metric's name without its detector or rate: floor/fvd_builtin is floor/fvd."""
    if "/displacement_at_" in name:
        return name.split("_at_")[0]
    head, _, tail = name.rpartition("/")
    short = tail.split("_")[0]
    if short not in ("fvd", "kvd", "rfvd", "is"):
        return name
    if tail.endswith("_split_std"):
        short += "_split_std"
    return f"{head}/{short}" if head else short


def _beside(name: str) -> str | None:
    """The metric of real clips to compare a figure with."""
    if name == "nearest/samples":
        return "nearest/held_out"
    if name.startswith("samples/"):
        return name.replace("samples/", "real/", 1)
    return {"fvd": f"floor/{name}", "kvd": f"floor/{name}", "is": f"real/{name}"}.get(_base(name))


def _cards(result: dict[str, Any], wanted: str) -> list[dict[str, Any]]:
    """The main figures, each with the floor or ceiling of real clips below."""
    cards = []
    for name, estimate in result["estimates"].items():
        if _base(name) != wanted:
            continue
        _, _, detector = name.partition("_") if wanted not in WORDS else (name, "", "")
        real = result["estimates"].get(_beside(name))
        against = "real against real" if wanted in ("fvd", "kvd") else "real clips"
        notes = [f"{against} {_short(real['mean'])}"] if real else []
        notes += [f"by {detector}"] if detector else []
        word = WORDS.get(wanted, wanted.upper().replace("RFVD", "rFVD"))
        unit = "dB" if wanted == "psnr" else ""
        cards.append(
            {"word": word, "value": _with_interval(estimate, _short), "unit": unit, "notes": notes}
        )
    return cards


def _speed(result: dict[str, Any]) -> dict[str, Any]:
    """The card of speed."""
    speed = result["speed"]
    evaluations = speed["speed/evaluations_per_100_steps"]
    notes = [
        f"one video, {speed['device']}",
        f"{evaluations:.0f} evaluations, guidance {speed['guidance']:g}",
    ]
    return {"word": "100 steps", "value": _short(speed[SPEED]), "unit": "s", "notes": notes}


def _rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Every figure with its interval, its meaning, and the figure of real clips beside it."""
    estimates = result["estimates"]
    paired = {other for name in estimates if (other := _beside(name)) in estimates}
    rows = []
    for name, each in estimates.items():
        if name in paired:
            continue
        other = estimates.get(_beside(name))
        rows.append(
            {
                "name": name,
                "value": _with_interval(each),
                "beside": _with_interval(other) if other else "",
                "repeats": each["repeats"],
                "meaning": MEANING.get(_base(name), ""),
            }
        )
    return rows


def _value(result: dict[str, Any], name: str) -> tuple[str, str]:
    """A figure by the published detector, or one by another detector and its name."""
    if name in result["estimates"]:
        return _with_interval(result["estimates"][name]), ""
    for other, each in result["estimates"].items():
        if other.startswith(f"{name}_") and not other.endswith("_std"):
            return _with_interval(each), other.removeprefix(f"{name}_")
    return "–", ""


def _shown(value: Any) -> str:
    """A figure in four digits, or another JSON value as text."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_shown(v)}" for k, v in value.items() if v is not None)
    if isinstance(value, list | tuple):
        return ", ".join("native" if v is None else _shown(v) for v in value)
    return str(value)


def _short(value: float) -> str:
    """A figure in three or four digits, to fit on a card."""
    return f"{value:.4g}" if abs(value) >= 100 else f"{value:.3g}"


def _with_interval(each: dict[str, Any], shown: Callable[[float], str] = _shown) -> str:
    text = shown(each["mean"])
    return f"{text} ± {shown(each['interval'])}" if each["interval"] is not None else text


def _breakable(name: str) -> Markup:
    """A metric's name that a narrow screen breaks between words only."""
    return escape(name).replace("_", Markup("_<wbr>")).replace("/", Markup("/<wbr>"))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _video(frames: Frames, fps: float) -> str:
    """A data URI of an MP4, enlarged so that browsers show separate pixels."""
    scale = max(1, -(-128 // frames.shape[1]))
    large = frames.repeat(scale, axis=1).repeat(scale, axis=2)
    mp4 = encode_h264(np.ascontiguousarray(large), fps, crf=18)
    return f"data:video/mp4;base64,{base64.b64encode(mp4).decode()}"


@cache
def _template() -> Template:
    folder = Path(__file__).with_name("templates")
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"shown": _shown, "breakable": _breakable, "sentence": _sentence}
    environment.globals |= {"video": _video}
    return environment.get_template("report.html")
