"""What a sharding will take, estimated from a few of its videos."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines import shard_videos as page
from pipelines.sharding import foresight
from pipelines.sharding.clip_shards import make_shard
from pipelines.sharding.foresight import _bytes, _rounded, _weights, foreseen
from pipelines.sharding.manifest import Account, Source
from pipelines.sharding.settings import Filters, Limits, ShardVideos
from pipelines.sharding.sources import LocalVideos
from tests.odd_videos import write


@pytest.fixture
def config(tmp_path: Path) -> ShardVideos:
    """Twenty videos, every second one of which is three times as long."""
    for number in range(20):
        place = tmp_path / f"videos/{number:02d}.mp4"
        place.parent.mkdir(exist_ok=True)
        write(place, "libx264", count=[16, 48][number % 2])
    return ShardVideos(root=str(tmp_path), labels="none", frames=4, size=32, core_hour_price=1e6)


def figures(config: ShardVideos) -> tuple[float, float]:
    """Clips, and the bytes of their shards in MB."""
    line = foreseen(page.plan_shards(config), config)[0]
    found = re.match(r"about ([\d,]+) clips, ([\d.]+) MB; a minute on \S+ core", line)
    assert found, line
    clips, size = (float(each.replace(",", "")) for each in found.groups())
    return clips, size


def test_clips_and_bytes_are_about_those_that_are_made(config: ShardVideos, tmp_path: Path) -> None:
    clips, size = figures(config)
    assert [each.name for each in tmp_path.iterdir()] == ["videos"]
    for plan in page.plan_shards(config):
        make_shard({"plan": plan, "retry": False, "verify": False})
    tars = list((tmp_path / "clips").glob("*.tar"))
    made = 10 * 16 / 4 + 10 * 48 / 4
    assert clips == pytest.approx(made, rel=0.25)
    assert size == pytest.approx(sum(tar.stat().st_size for tar in tars) / 1e6, rel=0.3)


def test_of_a_long_video_the_beginning_is_cut(
    config: ShardVideos, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = figures(config)
    decoded = [0]
    run = foresight.VideoTask.run

    def counted(task: foresight.VideoTask, videos: LocalVideos) -> Account:
        account = run(task, videos)
        decoded[0] += account.frames
        return account

    monkeypatch.setattr(foresight.VideoTask, "run", counted)
    monkeypatch.setattr(foresight, "PART_S", 0.5)
    assert figures(config)[0] == pytest.approx(whole[0], rel=0.3)
    assert 0 < decoded[0] < foresight.VIDEOS * 16


def test_a_part_without_a_clip_is_no_end(
    config: ShardVideos, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = figures(config)[0]
    monkeypatch.setattr(foresight, "PART_S", 0.01)
    assert figures(config)[0] == whole


def parts(config: ShardVideos, tmp_path: Path, count: int, length_s: float) -> ShardVideos:
    """The same videos, by a table of parts of each, one after the other from its beginning."""
    rows = [
        f"{video:02d}.mp4,,{n * length_s},{(n + 1) * length_s}"
        for video in range(20)
        for n in range(count)
    ]
    table = tmp_path / "parts.csv"
    table.write_text("\n".join(["path,label,start_s,end_s", *rows]))
    return replace(config, labels=str(table))


def test_a_part_is_cut_up_to_its_own_end(
    config: ShardVideos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clips in each part of 0.32 s; limits judge the parts, not what would be cut of a film."""
    monkeypatch.setattr(foresight, "VIDEOS", 20)
    monkeypatch.setattr(foresight, "BEGIN_S", 1e9)
    two = parts(config, tmp_path, 2, 0.32)
    within = {"limits": Limits(max_duration_s=1.0), "filters": Filters(min_duration_s=0.3)}
    for each in (two, replace(two, **within)):  # type: ignore[arg-type]
        line = foreseen(page.plan_shards(each), each)[0]
        assert line.startswith(f"about {20 * 2 * 2} clips")
    brief = replace(two, filters=Filters(min_duration_s=0.4))
    [line] = foreseen(page.plan_shards(brief), brief)
    assert line.endswith("without a clip: 20 too_brief")


class Clock:
    """Stands for the module `time`: what is done takes as long as is said."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_a_file_is_fetched_once_however_much_is_cut_of_it(
    config: ShardVideos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetching takes 100 s, cutting 1 s for each 0.16 s; half of the videos are 0.64 s long, and
    half of them 1.92 s."""
    clock = Clock()
    path, run = LocalVideos.path, foresight.VideoTask.run

    def fetched(videos: LocalVideos, source: Source) -> str:
        clock.now += 100.0 * (source.file != videos._file)
        return path(videos, source)

    def cut(task: foresight.VideoTask, videos: LocalVideos) -> Account:
        account = run(task, videos)
        clock.now += account.clips
        return account

    def core_s(config: ShardVideos) -> float:
        line = foreseen(page.plan_shards(config), config)[0]
        return 3600 * float(re.search(r"\(([\d.]+) core hours", line)[1])  # type: ignore[index]

    monkeypatch.setattr(foresight, "time", clock)
    monkeypatch.setattr(foresight, "VIDEOS", 20)
    monkeypatch.setattr(foresight, "BEGIN_S", 1e9)
    monkeypatch.setattr(foresight, "PART_S", 0.16)
    monkeypatch.setattr(LocalVideos, "path", fetched)
    monkeypatch.setattr(foresight.VideoTask, "run", cut)
    assert core_s(config) == pytest.approx(20 * 100 + 10 * 4 + 10 * 12, rel=0.03)
    assert core_s(parts(config, tmp_path, 4, 0.16)) == pytest.approx(20 * 100 + 20 * 4, rel=0.03)


def test_what_is_lost_is_told(config: ShardVideos) -> None:
    short = replace(config, limits=Limits(max_duration_s=1.0), filters=Filters(min_distance=3))
    found = foreseen(page.plan_shards(short), short)
    assert re.search(r"8 of the videos.* not ok: \d too_long; near-duplicates, which", found[1])
    none = replace(config, frames=100)
    [line] = foreseen(page.plan_shards(none), none)
    assert line.endswith("without a clip: 8 too_short")


def test_nothing_more_is_begun_after_a_while(
    config: ShardVideos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foresight, "BEGIN_S", 0.0)
    assert foreseen(page.plan_shards(config), config)[1].startswith(
        "estimated from 1 of the videos"
    )


def test_of_shards_without_videos_nothing_is_foreseen(config: ShardVideos) -> None:
    plans = page.plan_shards(replace(config, videos_per_shard=1))
    empty = [name for name, place in plans.places.items() if not len(place.rows_N)]
    assert len(empty) > 1
    assert foreseen(plans.only(empty), config) == []


def test_a_price_is_asked_for(config: ShardVideos) -> None:
    plans = page.plan_shards(config)
    line = foreseen(plans, config)[0]
    hours, price = re.search(r"\(([\d.e-]+) core hours\), ([\d,.]+) at the price", line).groups()  # type: ignore[union-attr]
    assert float(price.replace(",", "")) == pytest.approx(1e6 * float(hours), rel=0.06)
    assert "price" not in foreseen(plans, replace(config, core_hour_price=None))[0]


def test_videos_of_unknown_size_count_as_others_do() -> None:
    assert _weights(np.array([10, 0, 30])).tolist() == [10, 20, 30]
    assert _weights(np.array([10, 0, 0])).tolist() == [1, 1, 1]


def test_two_digits_count() -> None:
    assert [_rounded(v) for v in (12_345.0, 99.6, 3.14, 0.0213)] == [
        "12,000",
        "100",
        "3.1",
        "0.021",
    ]
    assert [_bytes(v) for v in (4e3, 12.3e6, 4.11e9, 49e12, 2e18)] == [
        "4 kB", "12 MB", "4.1 GB", "49 TB", "2,000 PB"
    ]  # fmt: skip
