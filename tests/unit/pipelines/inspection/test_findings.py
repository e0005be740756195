"""Each rule speaks where it should, and is silent otherwise."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipelines.inspection.findings import Finding, find
from pipelines.inspection.pixels import Looks, Pixels
from pipelines.inspection.videos import OfClass, Videos

SPEC: dict[str, Any] = {"size": 64, "rates": [8.0, 16.0]}


def of_class(train: int = 1000, val: int = 100, videos: int = 50, largest: int = 20) -> OfClass:
    return OfClass(Counter(train=videos), Counter(train=train, val=val), largest)


def videos(**changes: Any) -> Videos:
    sound = Videos(
        count=110,
        hours=1.0,
        states=Counter(ok=110),
        classes={"cat": of_class(), "dog": of_class()},
        sides_N=np.full(110, 240),
        rates_N=np.full(110, 25.0),
        durations=[],
        sides=[],
        rates=[],
    )
    return replace(sound, **changes)


def pixels(count: int = 0, **changes: float) -> Pixels:
    """A hundred clips, of which so many are changed."""
    usual = Looks(100.0, 5.0, 0.0, 0.0)
    return Pixels([replace(usual, **changes)] * count + [usual] * (100 - count))


def lines(*arguments: Any) -> list[str]:
    return [f"{each.kind} {each.what}" for each in find(*arguments, SPEC)]


def test_sound_data_give_no_finding() -> None:
    assert lines(videos(), pixels()) == []


CLASSES: list[tuple[dict[str, OfClass], str]] = [
    ({"cat": of_class(train=0, val=9)}, "wrong there is no clip to train on"),
    ({"cat": of_class(train=999)}, "note 999 clips to train on are few"),
    ({"cat": of_class(val=0)}, "odd no clip is held out, so nothing can be evaluated"),
    ({"cat": of_class(), "dog": of_class(val=0)}, "odd no clip is held out of dog"),
    ({"cat": of_class(), "dog": of_class(train=7)}, r"odd fewer than 8 .* of dog \(7\)"),
    ({"cat": of_class(), "dog": of_class(train=90)}, "note the largest class has 11 times"),
    ({"cat": of_class(largest=501)}, "odd one video gives most clips of cat"),
]


@pytest.mark.parametrize(("classes", "words"), CLASSES)
def test_classes_and_splits(classes: dict[str, OfClass], words: str) -> None:
    found = lines(videos(classes=classes), pixels())
    assert any(re.match(words, line) for line in found), found


def test_a_class_of_a_single_video_is_no_news() -> None:
    alone = {"cat": of_class(videos=1, largest=1000), "dog": of_class()}
    assert lines(videos(classes=alone), pixels()) == []


def test_losses_are_told_by_reason_and_share() -> None:
    lost = Counter({"ok": 100, "rejected-damaged": 9, "partial-damaged": 1})
    found = find(videos(states=lost), pixels(), SPEC)
    assert [(each.kind, each.what) for each in found] == [
        ("odd", "9 of 110 videos are rejected, damaged (8.2%)"),
        ("note", "1 of 110 videos are partial, damaged (0.9%)"),
    ]


def test_small_and_slow_videos_are_counted() -> None:
    small, slow = np.full(110, 240), np.full(110, 25.0)
    small[:12], slow[:12] = 48, 10.0
    assert lines(videos(sides_N=small), pixels()) == [
        "odd 12 of 110 videos are smaller than 64 pixels, and were enlarged"
    ]
    (line,) = lines(videos(rates_N=slow), pixels())
    assert line.startswith("odd 12 of 110 videos have fewer than 16 frames a second")
    small[11], slow[11] = 64, 16.0
    assert lines(videos(sides_N=small, rates_N=slow), pixels()) == []


PICTURES: list[tuple[dict[str, float], int, int, str]] = [
    ({"brightness": 7.9}, 3, 2, "are black"),
    ({"motion": 0.4}, 6, 5, "stand still"),
    ({"repeated": 0.3}, 11, 10, "repeat a third"),
    ({"bar": 0.1}, 6, 5, "have dark bars"),
]


@pytest.mark.parametrize(("changes", "enough", "too_few", "words"), PICTURES)
def test_pictures(changes: dict[str, float], enough: int, too_few: int, words: str) -> None:
    (line,) = lines(videos(), pixels(enough, **changes))
    assert line.startswith(f"odd {enough}% of the 100 clips") and words in line
    assert lines(videos(), pixels(too_few, **changes)) == []


def test_a_finding_says_what_to_do() -> None:
    assert Finding("odd", "a", "b").line == "a: b"
    assert Finding("odd", "a").line == "a"
    assert [Finding(kind, "a").rank for kind in ("wrong", "odd", "note")] == [0, 1, 2]  # type: ignore[arg-type]
