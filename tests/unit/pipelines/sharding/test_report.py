"""The report of a sharding names what was lost, and where all of it is listed."""

from pathlib import Path

from pipelines.io.markers import Marker
from pipelines.sharding.manifest import Account, Source
from pipelines.sharding.report import Report
from pipelines.video.reasons import REASONS


def video(path: str, status: str = "ok", reason: str | None = None) -> tuple[Source, Account]:
    return Source(path, path, 1, None, 1, "a", "train"), Account(status, reason, 1)


def report(place: Path, *videos: tuple[Source, Account]) -> Report:
    found = Report(place)
    marker, files = Marker("train-000000", "5a", 1, [], [], "", ""), ((1, None), (1, None))
    found.add(marker, list(videos), made=True, files=files)
    return found


def test_lost_videos_are_named_failures_first(tmp_path: Path) -> None:
    short = [video(f"a/{number}.mp4", "rejected", "static") for number in range(3)]
    found = report(tmp_path, *short, video("b.mp4"), video("z.mp4", "rejected", "unreadable"))
    broken, first, second, more, where = found.notes_on_losses("root/videos.parquet")
    assert broken == f"rejected: z.mp4: {REASONS['unreadable']}"
    assert first == f"rejected: a/0.mp4: {REASONS['static']}" and "a/1.mp4" in second
    assert (more, where) == ("and 1 more", "root/videos.parquet has the reason of each video")


def test_nothing_is_said_of_losses_where_there_are_none(tmp_path: Path) -> None:
    assert report(tmp_path, video("b.mp4")).notes_on_losses("root/videos.parquet") == []
