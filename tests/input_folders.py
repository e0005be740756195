"""Folders of videos by name alone, and the videos that are found in them."""

from __future__ import annotations

from pathlib import Path

from pipelines.sharding.manifest import Source
from pipelines.sharding.settings import Selection
from pipelines.sharding.sources import list_sources

GROUPS = r"_g\d+_"


def fill(folder: Path, *paths: str) -> str:
    """Empty files: a plan is made from the listing alone."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return str(folder)


def found(videos: str, **selection: object) -> dict[str, Source]:
    sources = list_sources(videos, Selection(**selection))  # type: ignore[arg-type]
    by_path = {source.path: source for source in sources}
    assert len(by_path) == len(sources)
    return by_path


def ucf(folder: Path) -> str:
    """UCF-101 as published, HandStand in its spelling; three groups of two classes."""
    names = [("ApplyEyeMakeup", "ApplyEyeMakeup"), ("HandstandPushups", "HandStandPushups")]
    files = [
        f"{label}/v_{name}_g{group:02d}_c{clip:02d}.avi"
        for label, name in names
        for group in (1, 7, 8)
        for clip in (1, 2, 3)
    ]
    lists = folder / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    classes = {"ApplyEyeMakeup": 1, "HandstandPushups": 37}
    (lists / "classInd.txt").write_text("1 ApplyEyeMakeup\r\n37 HandstandPushups\r\n")
    test = [file for file in files if "_g07_" in file]
    train = [f"{f} {classes[f.split('/')[0]]}" for f in files if "_g07_" not in f]
    (lists / "testlist01.txt").write_text("\r\n".join(test) + "\r\n")
    (lists / "trainlist01.txt").write_text("\r\n".join(train) + "\r\n")
    return fill(folder / "UCF-101", *files)
