"""Demo videos: the same bytes anywhere, kept where they are, one kind in a folder."""

from pathlib import Path

import pytest

from pipelines import demo_videos as page
from pipelines.demo.settings import DIGITS, GAMES, VAL_LIST, DemoVideos
from pipelines.video import header
from vqvdm.errors import UserError


def small(root: Path, count: int = 10, dry_run: bool = False, seed: int = 0) -> DemoVideos:
    return DemoVideos(
        root=str(root), count=count, size=32, duration_s=0.25, seed=seed, dry_run=dry_run
    )


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.mp4")}


def test_the_same_bytes_anywhere(tmp_path: Path) -> None:
    assert page.demo_videos(small(tmp_path / "a")) == "10 videos, 10 of them new"
    page.demo_videos(small(tmp_path / "b"))
    page.demo_videos(small(tmp_path / "c", seed=1))
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert a.keys() == c.keys() and not set(a.values()) & set(c.values())
    assert sorted(a) == sorted(f"videos/{name}/{name}-000.mp4" for name in DIGITS)
    assert len(set(a.values())) == 10
    info = header.probe(str(tmp_path / "a/videos/zero/zero-000.mp4"))
    assert (info.fps, info.width, info.height, info.duration_s) == (16.0, 32, 32, 0.25)


def test_existing_videos_are_kept(tmp_path: Path) -> None:
    page.demo_videos(small(tmp_path))
    old = tmp_path / "videos/two/two-000.mp4"
    old.write_bytes(b"mine")
    (tmp_path / "videos/one/one-000.mp4").unlink()
    assert page.demo_videos(small(tmp_path, count=11)) == "11 videos, 2 of them new"
    assert old.read_bytes() == b"mine"


@pytest.mark.parametrize("count", [0, -1, 1797])
def test_there_are_only_so_many_digits(tmp_path: Path, count: int) -> None:
    with pytest.raises(UserError, match="--count"):
        page.demo_videos(small(tmp_path, count))


def test_a_dry_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "require_ale", lambda: None)
    assert "would write 10 videos" in page.demo_videos(small(tmp_path, dry_run=True))
    games = DemoVideos(root=str(tmp_path), kind="games", dry_run=True)
    assert "would write 2048 videos" in page.demo_videos(games)
    assert list(tmp_path.iterdir()) == []


def test_the_kinds_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "require_ale", lambda: None)
    page.demo_videos(small(tmp_path))
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"holds videos of \w+, not of games: pass another --root"):
        page.demo_videos(DemoVideos(root=str(tmp_path), kind="games"))
    assert contents(tmp_path) == before
    (tmp_path / "games/videos/pong").mkdir(parents=True)
    (tmp_path / "games/videos/pong/pong-000.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="holds videos of pong, not of digits"):
        page.demo_videos(small(tmp_path / "games"))


def test_the_list_names_videos_of_every_game() -> None:
    paths = [page.video_path(game, number) for game in GAMES for number in range(128)]
    others = ["pong/mine.mp4", "zero/zero-001.mp4", "pong/freeway-001.mp4", VAL_LIST]
    chosen = page.val_list([*others, *paths]).splitlines()
    assert chosen == [
        page.video_path(game, number) for game in GAMES for number in range(1, 128, 10)
    ]
    assert page.val_list(paths[:2]) == "assault/assault-001.mp4\n"


def written_by(monkeypatch: pytest.MonkeyPatch, made: list[tuple[str, int]]) -> None:
    """Instead of playing, note what is missing, and leave an empty file."""

    def write(config: DemoVideos, videos: list[tuple[str, int]]):
        for video in videos:
            path = Path(config.videos_uri, page.video_path(*video))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            made.append(video)
            yield 1

    monkeypatch.setattr(page, "require_ale", lambda: None)
    monkeypatch.setattr(page, "write_games", write)


def test_games_that_are_missing_are_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int]] = []
    written_by(monkeypatch, made)
    config = DemoVideos(root=str(tmp_path), kind="games", games="pong,freeway", count=24)
    assert page.demo_videos(config) == "24 videos, 24 of them new"
    assert sorted(made) == [(game, number) for game in ("freeway", "pong") for number in range(12)]
    listing = tmp_path / "videos" / VAL_LIST
    wanted = [
        f"{game}/{game}-0{number}.mp4" for game in ("freeway", "pong") for number in (11, "01")
    ]
    assert listing.read_text().split() == sorted(wanted)
    (tmp_path / "videos/pong/pong-003.mp4").unlink()
    made.clear()
    assert page.demo_videos(config) == "24 videos, 1 of them new"
    assert made == [("pong", 3)]
    # More games later: those that are there stay on the list.
    more = DemoVideos(root=str(tmp_path), kind="games", games="boxing", count=2)
    page.demo_videos(more)
    assert listing.read_text().split() == sorted([*wanted, "boxing/boxing-001.mp4"])
