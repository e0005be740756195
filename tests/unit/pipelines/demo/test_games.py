"""Games at random play, with a console that is scripted, and with the real one."""

import sys
from itertools import islice, pairwise

import numpy as np
import pytest

from pipelines.demo import games
from pipelines.demo.settings import GAMES, TICKS_PER_S, DemoVideos
from pipelines.video import Frames
from vqvdm.errors import UserError

OPENING_S, SHORTEST_S, LONGEST_STILL_S = 5, 15, 1


class ScriptedConsole:
    """Its games last as many ticks as it is told, the last one for ever.

    Red is the tick; green and blue are drawn in every other tick only, in turns.
    """

    def __init__(self, *lengths: int) -> None:
        self.lengths = list(lengths)
        self.games = self.tick = 0
        self.actions: list[int] = []

    def reset_game(self) -> None:
        self.tick, self.games = 0, self.games + 1

    def getMinimalActionSet(self) -> list[int]:
        return [0, 3, 4]

    def act(self, action: int) -> int:
        self.tick += 1
        self.actions.append(action)
        return 0

    def game_over(self) -> bool:
        return self.games <= len(self.lengths) and self.tick >= self.lengths[self.games - 1]

    def getScreenRGB(self) -> Frames:
        picture = np.zeros((210, 160, 3), np.uint8)
        picture[...] = self.tick % 256, 255 * (self.tick % 2), 255 * (self.tick % 2 == 0)
        return picture


def test_actions_are_held_and_vary() -> None:
    console = ScriptedConsole()
    for _ in islice(games.play(console, np.random.default_rng(0)), 6000):
        pass
    changes = [n for n, (a, b) in enumerate(pairwise(console.actions)) if a != b]
    lengths = np.diff(changes)
    assert lengths.min() >= games.HELD_TICKS[0]
    assert np.mean(lengths <= 30) > 0.6  # longer ones are the same action, drawn again
    assert np.bincount(console.actions, minlength=5)[[0, 3, 4]].min() > 1000


def test_a_game_ends_with_it() -> None:
    console = ScriptedConsole(100)
    assert len(list(games.play(console, np.random.default_rng(0)))) == 99


@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_picture_shows_what_either_of_two_ticks_shows(step: int) -> None:
    console = ScriptedConsole()
    ticks = games.play(console, np.random.default_rng(0))
    shown = list(islice(games.pictures(console, ticks, step), 10))
    assert [picture[0, 0, 0] for picture in shown] == [step * n for n in range(1, 11)]
    assert all((picture[..., 1:] == 255).all() for picture in shown)


def test_a_video_is_one_stretch_of_one_game(monkeypatch: pytest.MonkeyPatch) -> None:
    # Three games end before the opening is over, or before the video is.
    console = ScriptedConsole(10, 200, 310)
    monkeypatch.setattr(games, "console", lambda game, seed: console)
    config = DemoVideos(kind="games", size=32, fps=30.0, duration_s=2.0)
    frames = games.game_video(config, "pong", 0)
    assert frames.shape == (60, 32, 32, 3) and frames.dtype == np.uint8
    assert console.games == 4
    assert set(np.diff(frames[:, 0, 0, 0].astype(int)) % 256) == {2}
    assert console.tick - 120 >= OPENING_S * TICKS_PER_S


def test_games_that_are_too_short_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    console = ScriptedConsole(*[400] * games.TRIES)
    monkeypatch.setattr(games, "console", lambda game, seed: console)
    config = DemoVideos(kind="games", size=32, fps=30.0, duration_s=2.0)
    with pytest.raises(UserError, match="--duration-s 2: pong was over sooner"):
        games.game_video(config, "pong", 0)


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(UserError, match=r"pip install .*\.\[games\]"):
        games.require_ale()


@pytest.mark.long
@pytest.mark.parametrize("game", GAMES)
def test_play_moves_and_repeats_exactly(game: str) -> None:
    pytest.importorskip("ale_py")
    config = DemoVideos(kind="games", size=64, fps=30.0, duration_s=3.0)
    frames = games.game_video(config, game, 0)
    assert frames.shape == (90, 64, 64, 3)
    np.testing.assert_array_equal(games.game_video(config, game, 0), frames)
    assert (games.game_video(config, game, 1) != frames).any()
    moves = (frames[1:] != frames[:-1]).any((1, 2, 3))
    still = max(len(run) for run in "".join("M" if m else "s" for m in moves).split("M"))
    assert still <= LONGEST_STILL_S * 30
    # The screen is drawn, and it is not one colour.
    assert frames.std((1, 2)).max(1).min() > 5


@pytest.mark.parametrize("game", GAMES)
def test_the_opening_is_over_before_a_video_begins(game: str) -> None:
    """By then, what is played makes a difference."""
    pytest.importorskip("ale_py")
    screens = []
    for player in range(2):
        console = games.console(game, 0)
        ticks = games.play(console, np.random.default_rng(player))
        for _ in islice(ticks, round(games.SKIPPED_S[0] * TICKS_PER_S)):
            pass
        screens.append(console.getScreen())
    assert (screens[0] != screens[1]).any()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_seed_changes_the_play(seed: int) -> None:
    pytest.importorskip("ale_py")
    config = DemoVideos(kind="games", size=32, fps=15.0, duration_s=1.0, seed=seed)
    other = DemoVideos(kind="games", size=32, fps=15.0, duration_s=1.0, seed=seed + 1)
    assert (games.game_video(config, "seaquest", 0) != games.game_video(other, "seaquest", 0)).any()


def test_pictures_are_upright_and_in_colour() -> None:
    pytest.importorskip("ale_py")
    config = DemoVideos(kind="games", size=64, fps=30.0, duration_s=1.0)
    driving = games.game_video(config, "enduro", 0)[0].astype(int)
    sky, meadow = driving[6:10].mean((0, 1)), driving[26:34, 8:16].mean((0, 1))
    assert sky.argmax() == 2 and meadow.argmax() == 1
    pong = games.game_video(config, "pong", 0)
    np.testing.assert_allclose(np.median(pong[0], (0, 1)), [144, 72, 17], atol=2)


@pytest.mark.slow
@pytest.mark.parametrize("game", GAMES)
def test_games_last_and_go_on(game: str) -> None:
    pytest.importorskip("ale_py")
    for seed in range(8):
        console = games.console(game, seed)
        ticks, before, still, longest = 0, None, 0, 0
        for _ in games.play(console, np.random.default_rng(seed)):
            ticks += 1
            screen = console.getScreen()
            if ticks > OPENING_S * TICKS_PER_S:
                still = still + 1 if before is not None and (screen == before).all() else 0
                longest = max(longest, still)
            before = screen.copy()
            if ticks == 30 * TICKS_PER_S:
                break
        assert ticks >= SHORTEST_S * TICKS_PER_S
        assert longest <= 1.1 * LONGEST_STILL_S * TICKS_PER_S
