"""Progress: few lines, correct rates, and always a last line."""

from types import SimpleNamespace

import pytest

from pipelines.io import progress
from pipelines.io.progress import Progress


class Clock:
    """A clock that tests advance."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def test_a_line_every_few_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    counter = Progress("shards", 20, every_s=5.0)
    for _ in range(19):
        clock.now_s += 1
        counter.add(1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["5/20", "10/20", "15/20"]


def test_the_last_line_is_always_there(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    counter = Progress("shards", 3)
    for _ in range(3):
        counter.add(1)
    assert capsys.readouterr().out.startswith("3/3 shards")


def test_a_bar_on_a_terminal(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    counter = Progress("shards", 4)
    for _ in range(4):
        counter.add(1, clips=2)
    first, *_, last = capsys.readouterr().out.split("\r")[1:]
    assert first.startswith("█" * 5 + "░" * 15 + " 1/4 shards") and "\n" not in first
    assert last.startswith("█" * 20 + " 4/4 shards") and last.endswith("\n")


def test_rates_and_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    counter = Progress("shards", 4)
    counter.add(1, clips=30, failed=0)
    clock.now_s += 10
    counter.add(1, clips=20, failed=0)
    assert capsys.readouterr().out == "2/4 shards  50 clips (5/s)  10 s left\n"


def test_no_division_by_zero_time_or_work(clock: Clock) -> None:
    assert Progress("shards", 5).line(0.0).startswith("0/5 shards")
    counter = Progress("shards", 5)
    counter.add(1, clips=3)
    assert "3 clips" in counter.line(0.0)


def test_time_left_is_reckoned_by_bytes(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    counter = Progress("shards", 2, total_bytes=4 * 10**9)
    counter.add(0)
    clock.now_s += 10
    counter.add(1, bytes_done=10**9)
    assert capsys.readouterr().out == "1/2 shards  1.0 of 4.0 GB  30 s left\n"


def test_what_holds_up_the_end_is_named_at_once(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    counter, left = Progress("shards", 6, every_s=3600.0), set("abcdef")
    for name in "bcdae":
        clock.now_s += 1
        left.remove(name)
        counter.add(1, left=left)
    # When three are left; later ones wait for the next line.
    assert capsys.readouterr().out == "3/6 shards    3 s left, last: a, e, f\n"
