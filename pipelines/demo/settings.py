"""Settings of `demo_videos`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pipelines.settings import VideosJob
from vqvdm.errors import UserError, did_you_mean
from vqvdm.ranges import Count, CountFrom0, NotNegative, Positive, Range

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
GAMES = (
    "assault",
    "atlantis",
    "battle_zone",
    "beam_rider",
    "boxing",
    "carnival",
    "demon_attack",
    "enduro",
    "fishing_derby",
    "freeway",
    "frostbite",
    "ms_pacman",
    "pong",
    "seaquest",
    "space_invaders",
    "zaxxon",
)
"""Names as in ale-py; their order decides the seeds of their videos. Chosen because a random player
lasts 18 seconds or more, and the picture never stands still for longer than one."""
VAL_LIST = "val_list.txt"
"""Lies among the videos of games and names those for validation."""
TICKS_PER_S = 60
"""Frames a second of the console that the games run on."""

Kind = Literal["digits", "games"]


@dataclass(frozen=True)
class Format:
    """How many videos, and what each of them is like."""

    count: int
    size: int
    fps: float
    duration_s: float

    @property
    def frames(self) -> int:
        """Frames of a video."""
        return round(self.duration_s * self.fps)


DEFAULTS: dict[str, Format] = {
    "digits": Format(count=640, size=128, fps=16.0, duration_s=4.0),
    "games": Format(count=2048, size=256, fps=30.0, duration_s=10.0),
}


@dataclass(frozen=True)
class DemoVideos(VideosJob):
    """Write videos to try everything with, one folder a class: digits in motion, or games."""

    kind: Kind = "digits"
    """`digits`: handwritten digits that move. `games`: sixteen Atari games, played at random by
    ale-py, which is to be installed: pip install -e '.[games]'."""
    count: Count | None = None
    """Number of videos, spread evenly over the classes; by default 640 of digits, each of another
    handwritten one, or 2,048 of games, each of another seed."""
    size: Annotated[int, Range(16)] | None = None
    """Height and width in pixels; by default 128 of digits, 256 of games."""
    fps: Positive | None = None
    """Frames a second; by default 16 of digits, 30 of games."""
    duration_s: Positive | None = None
    """Length of a video in seconds; by default 4 of digits, 10 of games."""
    speed_px_s: NotNegative = 32.0
    """Speed of the digits in pixels a second."""
    games: str = "all"
    """Games separated by commas, such as pong,freeway, or all."""
    seed: CountFrom0 = 0

    @property
    def format(self) -> Format:
        """What is not given is that of the kind."""
        default = DEFAULTS[self.kind]
        return Format(
            default.count if self.count is None else self.count,
            default.size if self.size is None else self.size,
            default.fps if self.fps is None else self.fps,
            default.duration_s if self.duration_s is None else self.duration_s,
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order in which videos are spread over them."""
        if self.kind == "digits":
            return DIGITS
        if self.games == "all":
            return GAMES
        names = tuple(dict.fromkeys(name.strip() for name in self.games.split(",")))
        for name in names:
            if name not in GAMES:
                hint = did_you_mean(name, GAMES)
                raise UserError(f"--games {name}: {hint}Games: {', '.join(GAMES)}")
        return names

    def check(self) -> None:
        super().check()
        wanted = self.format
        if wanted.size % 2:
            raise UserError(f"--size {wanted.size} is odd: video codecs need an even number")
        if not wanted.frames:
            raise UserError(f"--duration-s {wanted.duration_s:g} is shorter than a frame")
        if self.kind == "games" and TICKS_PER_S % wanted.fps:
            raise UserError(
                f"--fps {wanted.fps:g}: games run at {TICKS_PER_S} frames a second; give a rate "
                "that divides it, such as 15, 20, 30 or 60"
            )
        _ = self.classes
