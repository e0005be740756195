"""The picture of the README: results.json and growth.json, drawn into docs/benchmarks.png.

python -m benchmarks.plot
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.growth import CURVES
from benchmarks.results import PLACE

PICTURE = Path(__file__).parent.parent / "docs" / "benchmarks.png"
OURS, FLOOR = "#2a6f97", "#d1495b"


def bars(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """A bar a row, as a multiple of the peer, from its least to its greatest; floors as ticks."""
    rows = rows[::-1]
    for place, row in enumerate(rows):
        axes.barh(place, row["ratio"], color=OURS, height=0.6)
        axes.plot([row["low"], row["high"]], [place, place], color="black", linewidth=1)
        if row["floor"]:
            axes.plot([row["floor"]] * 2, [place - 0.4, place + 0.4], color=FLOOR, linewidth=2)
        axes.annotate(
            f"{row['ratio']:.3g}", (max(row["high"], row["floor"]), place), (4, 0),
            textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    labels = [textwrap.fill(f"{row['name']} / {row['peer']}", 48) for row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=7)
    axes.set_xscale("log")
    axes.set_xlim(0.3, 3 * max(row["high"] for row in rows))
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_title("times better than the peer (red: the least wanted)", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def growth(axes: Axes, curve: dict[str, Any], power: int) -> None:
    """Seconds by amount; dashed, in proportion to the largest amount or to its square."""
    amounts, seconds = curve["amounts"], curve["seconds"]
    straight = [seconds[-1] * (amount / amounts[-1]) ** power for amount in amounts]
    axes.plot(amounts, straight, "--", color="grey", linewidth=0.8)
    axes.plot(amounts, seconds, "o-", color=OURS, markersize=3)
    axes.set_xticks(amounts)
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=7)
    axes.set_title(f"{curve['name']}, seconds", fontsize=8)
    axes.set_xlabel(curve["unit"], fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    plt.switch_backend("agg")
    rows, curves = json.loads(PLACE.read_text()), json.loads(CURVES.read_text())
    figure = plt.figure(figsize=(11, 6.5), layout="constrained")
    halves = figure.subfigures(1, 2, width_ratios=(1.25, 1), squeeze=False)[0]
    bars(halves[0].subplots(), rows)
    places = halves[1].subplots(3, 2)
    for axes, (name, curve) in zip(places.flat, curves.items(), strict=False):
        growth(axes, curve, 2 if name == "size" else 1)
    for axes in places.flat[len(curves) :]:
        axes.remove()
    figure.savefig(PICTURE, dpi=150)
    print(PICTURE)


if __name__ == "__main__":
    main()
