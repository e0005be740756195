"""Settings of `demo_videos`: what each kind gives by default, and what is refused."""

from typing import Any

import pytest

from pipelines.demo.settings import DIGITS, GAMES, DemoVideos, Format
from vqvdm.errors import UserError


def test_each_kind_has_its_own_defaults() -> None:
    assert DemoVideos().format == Format(640, 128, 16.0, 4.0)
    assert DemoVideos(kind="games").format == Format(2048, 256, 30.0, 10.0)
    given = DemoVideos(kind="games", count=3, size=64, fps=15.0, duration_s=2.0)
    assert given.format == Format(3, 64, 15.0, 2.0)
    assert given.format.frames == 30


def test_classes() -> None:
    assert DemoVideos().classes == DIGITS
    assert DemoVideos(kind="games").classes == GAMES
    assert len(set(GAMES)) == 16
    assert DemoVideos(kind="games", games="pong, freeway,pong").classes == ("pong", "freeway")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"count": 0}, "--count"),
        ({"count": -1, "kind": "games"}, "--count"),
        ({"size": 63}, "--size 63"),
        ({"size": 8}, "--size must be at least 16, not 8"),
        ({"fps": 0.0}, "--fps"),
        ({"fps": float("nan")}, "--fps"),
        ({"duration_s": -1.0}, "--duration-s"),
        ({"duration_s": float("inf")}, "--duration-s"),
        ({"duration_s": 0.01}, "--duration-s 0.01 is shorter than a frame"),
        ({"kind": "games", "fps": 25.0}, "--fps 25: games run at 60"),
        ({"kind": "games", "fps": 120.0}, "--fps 120"),
        ({"kind": "games", "games": "pnog"}, "--games pnog: did you mean 'pong'"),
        ({"kind": "games", "games": ""}, "--games"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        DemoVideos(**given).check()


@pytest.mark.parametrize("fps", [60.0, 30.0, 20.0, 15.0, 7.5])
def test_rates_that_divide_the_consoles(fps: float) -> None:
    DemoVideos(kind="games", fps=fps).check()
