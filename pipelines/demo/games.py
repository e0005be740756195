"""Games at random play: Atari games, emulated by ale-py.

A player holds a random combination of stick and button for a moment, then another. A video is a
stretch of one game, without its opening and without its end. The same seed gives the same pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from pipelines.demo.settings import GAMES, TICKS_PER_S, DemoVideos
from pipelines.video import Frames
from vqvdm.errors import UserError

HELD_TICKS = 4, 31
"""How long an action is held: a fifteenth to half a second. One that changes with every tick
leaves the player on the spot."""
SKIPPED_S = 5.0, 20.0
"""How much play comes before a video. The longest opening, in which nobody may move yet, takes
less than five seconds."""
TRIES = 100
"""Games begun until one lasts for the whole video."""


def require_ale() -> Any:
    """The package `ale_py`; `UserError` where it is not installed."""
    try:
        import ale_py
        import ale_py.roms
    except ImportError:
        raise UserError(
            "--kind games needs the package ale-py, on every node of a cluster: "
            "pip install -c constraints.txt -e '.[games]'"
        ) from None
    return ale_py


def console(game: str, seed: int) -> Any:
    """An `ALEInterface` with the game in it."""
    ale_py = require_ale()
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setInt("random_seed", seed)
    ale.setFloat("repeat_action_probability", 0.0)  # The player itself holds actions.
    ale.loadROM(ale_py.roms.get_rom_path(game))
    return ale


def play(ale: Any, rng: np.random.Generator) -> Iterator[None]:
    """Begin a game, and yield after each tick of it until it is over."""
    ale.reset_game()
    actions = ale.getMinimalActionSet()
    while True:
        action = actions[rng.integers(len(actions))]
        for _ in range(rng.integers(*HELD_TICKS)):
            ale.act(action)
            if ale.game_over():
                return
            yield


def pictures(ale: Any, ticks: Iterator[None], step: int) -> Iterator[Frames]:
    """A picture (H, W, 3) every `step` ticks: of the last two, as the console draws some things
    in every other one only."""
    before = ale.getScreenRGB()
    for number, _ in enumerate(ticks, 1):
        if number % step == 0:
            now = ale.getScreenRGB()
            yield np.maximum(before, now)
            before = now
        elif number % step == step - 1:
            before = ale.getScreenRGB()


def square(picture_HW3: Frames, size: int) -> Frames:
    """The whole picture, resized: a centre square would lack the score, and some players."""
    shape = (size, size)
    return np.asarray(Image.fromarray(picture_HW3).resize(shape, Image.Resampling.BICUBIC))


def game_video(config: DemoVideos, game: str, number: int) -> Frames:
    """Frames (T, H, W, 3) of video `number` of a game; `UserError` if no game lasts so long."""
    wanted = config.format
    rng = np.random.default_rng([config.seed, GAMES.index(game), number])
    ale = console(game, int(rng.integers(2**31)))
    for _ in range(TRIES):
        ticks = play(ale, rng)
        skipped = round(rng.uniform(*SKIPPED_S) * TICKS_PER_S)
        for _ in islice(ticks, skipped):
            pass
        shown = pictures(ale, ticks, round(TICKS_PER_S / wanted.fps))
        frames = list(islice(shown, wanted.frames))
        if len(frames) == wanted.frames:
            return np.stack([square(frame, wanted.size) for frame in frames])
    raise UserError(
        f"--duration-s {wanted.duration_s:g}: {game} was over sooner, {TRIES} times: "
        "make it shorter, or leave the game out by --games"
    )
