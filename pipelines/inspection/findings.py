"""What is wrong, what is odd, and what is worth knowing, each with what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.inspection.pixels import Pixels
from pipelines.inspection.videos import UNLABELLED, Videos
from pipelines.io.markers import SPLITS
from pipelines.io.shards import repair
from vqvdm.errors import listed

Kind = Literal["wrong", "odd", "note"]
"""wrong: a job will fail or a figure will be false; odd: likely not what was meant."""

FEW = 8
"""Training clips of a class, below which it will hardly be learnt."""
MEMORISED = 1_000
"""Training clips, below which a generator mostly learns them by heart."""
UNBALANCED = 10
"""How many times as many clips a class may have as another."""
NAMED = 5
"""Classes that a finding names."""


@dataclass(frozen=True)
class Finding:
    """One thing, and what to do about it."""

    kind: Kind
    what: str
    cure: str = ""

    @property
    def rank(self) -> int:
        return ("wrong", "odd", "note").index(self.kind)

    @property
    def line(self) -> str:
        return f"{self.what}: {self.cure}" if self.cure else self.what


def find(videos: Videos, pixels: Pixels, spec: dict[str, Any]) -> list[Finding]:
    """All findings on videos and clips; `spec` is that of the clips."""
    of_videos = [*_splits(videos), *_classes(videos), *_losses(videos), *_sources(videos, spec)]
    return [*of_videos, *_pictures(pixels)]


def check_account(videos: Videos, index: dict[str, Any]) -> list[Finding]:
    """Compare the manifest of videos with the index of clips: a job that ends between the two
    leaves a manifest that is newer."""
    told = {split: videos.clips[split] for split in SPLITS}
    wanted = {split: index["counts"].get(split, 0) for split in SPLITS}
    others = [name for name in videos.classes if name not in (*index["classes"], UNLABELLED)]
    what = "videos.parquet is not of the clips that clips/index.json lists"
    if told != wanted:
        counts = (f"{each['train']} + {each['val']}" for each in (told, wanted))
        what += ": it tells of {} clips for training + validation instead of {}".format(*counts)
    elif others:
        what += f": these have no class {listed(others, NAMED)}"
    else:
        return []
    cure = (
        "run jobs/shard_videos.py again as it ran last, without --strict if that ended it: it "
        "publishes videos.parquet first, and the index at its end"
    )
    return [Finding("wrong", what, cure)]


def _splits(videos: Videos) -> Iterator[Finding]:
    clips = videos.clips
    if not clips["train"]:
        yield Finding("wrong", "there is no clip to train on", "lower --val-fraction")
    elif clips["train"] < MEMORISED:
        yield Finding(
            "note",
            f"{clips['train']} clips to train on are few: a generator mostly learns them by heart",
            "nearest/ratio of jobs/evaluate.py says how far; more videos, or --stride below "
            "--frames, make more",
        )
    if not clips["val"]:
        yield Finding(
            "odd",
            "no clip is held out, so nothing can be evaluated",
            "raise --val-fraction of shard_videos",
        )


def _classes(videos: Videos) -> Iterator[Finding]:
    classes = {name: each for name, each in videos.classes.items() if name != UNLABELLED}
    few = [f"{name} ({c.clips['train']})" for name, c in classes.items() if c.clips["train"] < FEW]
    if few:
        yield Finding(
            "odd",
            f"fewer than {FEW} clips to train on of {listed(few, NAMED)}",
            "add videos of them",
        )
    unseen = [name for name, each in classes.items() if not each.clips["val"]]
    if unseen and videos.clips["val"]:
        yield Finding(
            "odd",
            f"no clip is held out of {listed(unseen, NAMED)}",
            "FVD needs some of each: raise --val-fraction, or evaluate with --real-split all",
        )
    sizes = sorted(each.clips["train"] for each in classes.values() if each.clips["train"])
    if sizes and sizes[-1] > UNBALANCED * sizes[0]:
        yield Finding(
            "note",
            f"the largest class has {sizes[-1] / sizes[0]:.0f} times the clips of the smallest",
            "samples of small classes will be worse, and more like their few clips",
        )
    single = [
        name
        for name, each in classes.items()
        if each.videos["train"] > 1 and each.largest > each.clips["train"] / 2
    ]
    if single:
        yield Finding(
            "odd",
            f"one video gives most clips of {listed(single, NAMED)}",
            "cut it shorter by start_s and end_s in a table, or add others",
        )


def _losses(videos: Videos) -> Iterator[Finding]:
    for state, count in videos.lost.most_common():
        status, _, reason = state.partition("-")
        share = count / videos.count
        yield Finding(
            "odd" if share > 0.05 else "note",
            f"{count} of {videos.count} videos are {status}, {reason} ({share:.1%})",
            "docs/videos.md says what it means, videos.parquet which they are",
        )


def _sources(videos: Videos, spec: dict[str, Any]) -> Iterator[Finding]:
    size, sides = spec["size"], videos.sides_N
    small = int((sides < size).sum())
    if small > 0.1 * len(sides):
        yield Finding(
            "odd",
            f"{small} of {len(sides)} videos are smaller than {size} pixels, and were enlarged",
            f"cut at a smaller --size, or leave them out by --filters.min-size {size}",
        )
    for rate in (each for each in spec["rates"] if each):
        slow = int((videos.rates_N < 0.95 * rate).sum())
        if slow > 0.1 * len(videos.rates_N):
            yield Finding(
                "odd",
                f"{slow} of {len(videos.rates_N)} videos have fewer than {rate:g} frames a second: "
                "their clips at that rate repeat frames",
                "leave that rate out of --fps",
            )


def _pictures(pixels: Pixels) -> Iterator[Finding]:
    looked = f"of the {len(pixels.looks)} clips that were looked at"
    black, still = pixels.share("brightness", 0, 8), pixels.share("motion", 0, 0.5)
    barred, repeating = pixels.share("bar", 0.1), pixels.share("repeated", 0.3)
    if not pixels.looks:
        yield Finding("wrong", "no clip could be read", repair("shard_videos"))
    if black > 0.02:
        yield Finding("odd", f"{black:.0%} {looked} are black", "--filters.min-brightness 8")
    if still > 0.05:
        yield Finding("odd", f"{still:.0%} {looked} stand still", "--filters.min-motion 0.5")
    elif repeating > 0.1:
        yield Finding(
            "odd",
            f"{repeating:.0%} {looked} repeat a third of their frames or more",
            "the videos have fewer frames a second than their headers say, or than --fps",
        )
    if barred > 0.05:
        yield Finding("odd", f"{barred:.0%} {looked} have dark bars on two sides", "--crop-bars")
