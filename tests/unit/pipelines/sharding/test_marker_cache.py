"""A re-run reads the markers of what changed, and publishes the same as one that reads them all."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import shard_videos as page
from pipelines.io import lock, markers, shards, storage
from pipelines.io.markers import Marker, load_markers
from pipelines.sharding import marker_cache, perceptual_hash
from pipelines.sharding.clip_shards import ShardPlan, VideoTask
from pipelines.sharding.clips import DroppedClip, EncodedClip
from pipelines.sharding.manifest import Account, utf8
from pipelines.sharding.marker_cache import Shard
from pipelines.sharding.plans import Plans
from pipelines.sharding.report import Report
from pipelines.sharding.settings import Filters, ShardVideos
from pipelines.sharding.source_table import SourceTable
from pipelines.video.reasons import VideoError
from vqvdm.errors import IncompleteError, UserError

SCORES = {"brightness": 1.5, "motion": 2.0, "sharpness": 3.25, "change": 0.5}


def run(task: VideoTask, _: Any) -> Account:
    """In place of decoding: the outcome is that of the file's name, the clips of its path."""
    path, spec = task.source.path, task.spec
    scores = SCORES if spec.scores else None
    for number in range(0 if "bad" in path else 2):
        task._add(
            EncodedClip(path.encode("utf-8", "surrogateescape"), 8.0, number, number / 8, scores)
        )
        task.scores += [{"fps": 8.0, "start_s": number / 8} | scores] if scores else []
    if "dark" in path:
        task.dropped.append(DroppedClip(8.0, 0.5, "black", 7.5))
    task.frames = 40
    if "bad" in path:
        return task._account(VideoError("too_many_pixels", f"of {path}", 6144))
    return task._account(VideoError("damaged", "at 1 s") if "part" in path else None)


class Root:
    """A folder of videos, cut again and again in this process."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.videos = place / "videos"
        names = [f"{'ab'[n % 2]}/{n}.mp4" for n in range(24)]
        for name in [*names, "a/bad.mp4", "b/part.mp4", "b/dark.mp4", "a/odd-\udcff.mp4"]:
            self.add(name)
        self.config = ShardVideos(
            root=str(place / "root"), videos=str(self.videos), frames=4, size=16, stride=4,
            videos_per_shard=3, val_fraction=0.2,
        )  # fmt: skip
        self.made: list[str] = []
        self.asked: list[str] = []
        """Shards that workers were given."""
        self.read: list[str] = []
        """Shards whose markers the driver has read."""
        self.rejected: list[bytes] = []
        read_marker = markers.read_marker

        def counted(folder: str, name: str) -> Marker | None:
            self.read.append(name)
            return read_marker(folder, name)

        monkeypatch.setattr(markers, "read_marker", counted)
        monkeypatch.setattr(VideoTask, "run", run)
        monkeypatch.setattr(page, "on_workers", self._one_by_one)
        monkeypatch.setattr(page, "join_for_tasks", lambda: None)
        monkeypatch.setattr(page, "run_on_demand", lambda *_: nullcontext(lambda: Unlogged()))
        monkeypatch.setattr(lock, "SETTLE_S", 0.0)
        monkeypatch.setattr(Report, "track", lambda report, *_: self._see(report))

    def _see(self, report: Report) -> None:
        self.rejected.append(report.rejected_csv())

    def _one_by_one(
        self, work: Callable[[dict], dict], plans: Plans, config: ShardVideos, **columns: Any
    ) -> Iterator[tuple[ShardPlan, dict]]:
        asked = {"retry": config.retry_failed, "verify": config.verify}
        for plan in plans:
            row = work({"plan": plan, **asked, **columns})
            if "made" in row:
                self.asked.append(plan.name)
                self.made += [plan.name] * row["made"]
            yield plan, row

    def add(self, name: str, text: str = "a video") -> Path:
        path = self.videos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    @property
    def clips(self) -> Path:
        return Path(self.config.root) / "clips"

    @property
    def cache(self) -> Path:
        return self.clips / marker_cache.NAME

    def cut(self) -> str:
        for found in (self.made, self.asked, self.read, self.rejected):
            found.clear()
        return page.shard_videos(self.config)

    def settled(self) -> None:
        """Cut, until what is known is as old as it has to be."""
        self.cut()
        for file in self.clips.iterdir():
            times = (1e9 + 1,) * 2 if file.suffix == ".json" else (1e9, 1e9)
            os.utime(file, times)
        self.cut()
        self.cut()
        assert self.made == self.asked == self.read == []

    def files(self) -> dict[str, bytes]:
        root = Path(self.config.root)
        timed = ("lock.json", marker_cache.NAME)
        found = (path for path in sorted(root.rglob("*.*")) if path.name not in timed)
        return {str(path.relative_to(root)): path.read_bytes() for path in found}

    def without_cache(self) -> tuple[dict[str, bytes], list[str], list[str], list[bytes]]:
        """What comes of a cut of a copy that has none: files, shards that are made, shards that
        workers are given, and lists of rejected videos."""
        config, copy = self.config, f"{self.config.root}-copy"
        shutil.copytree(config.root, copy)
        (Path(copy) / "clips" / marker_cache.NAME).unlink(missing_ok=True)
        self.config = replace(config, root=copy)
        with suppress(IncompleteError):
            self.cut()
        found = self.files(), list(self.made), list(self.asked), list(self.rejected)
        assert set(self.read) | set(self.asked) == set(self.shards())
        self.config = config
        shutil.rmtree(copy)
        return found

    def cut_alike(self, **changes: Any) -> None:
        """Cut, and compare with what comes of it without a cache."""
        self.config = replace(self.config, **changes)
        expected = self.without_cache()
        with suppress(IncompleteError):
            self.cut()
        assert (self.files(), self.made, self.asked, self.rejected) == expected

    def shards(self) -> list[str]:
        return sorted(path.stem for path in self.clips.glob("*.tar"))


class Unlogged:
    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Root:
    found = Root(tmp_path, monkeypatch)
    found.settled()
    assert len(found.shards()) == 10
    return found


def test_what_stands_is_not_read(root: Root) -> None:
    before, cache, stat = root.files(), root.cache.read_bytes(), root.cache.stat()
    assert "there already, verified by size and time" in root.cut()
    assert root.read == root.asked == [] and root.files() == before
    assert (root.cache.read_bytes(), root.cache.stat()) == (cache, stat)


def test_a_job_leaves_what_the_next_one_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for shards that are written in the same tick of the clock as the cache."""
    root = Root(tmp_path, monkeypatch)
    root.cut()
    assert len(root.made) == 10
    later = root.cache.stat().st_mtime + 2
    os.utime(root.cache, (later, later))
    root.cut()
    assert root.read == root.asked == []


Change = Callable[[Root], Any]
VIDEOS: dict[str, tuple[Change, int]] = {
    "nothing": (lambda root: None, 0),
    "added": (lambda root: root.add("a/new.mp4"), 1),
    "altered": (lambda root: root.add("a/4.mp4", "another"), 1),
    "later": (lambda root: os.utime(root.videos / "a/4.mp4", (0, 0)), 1),
    "removed": (lambda root: (root.videos / "a/4.mp4").unlink(), 1),
    "a new class": (lambda root: root.add("c/0.mp4"), 1),
    "a class without clips": (lambda root: root.add("c/bad.mp4"), 1),
    "a dark one": (lambda root: root.add("b/dark-2.mp4"), 1),
}


@pytest.mark.parametrize("name", VIDEOS)
def test_only_what_changed_is_read(name: str, root: Root) -> None:
    change, count = VIDEOS[name]
    change(root)
    root.cut_alike()
    # Linear hashing changes two more at most.
    assert count <= len(root.made) <= 3 * count and set(root.read) <= set(root.made)
    root.cut_alike()
    assert root.made == []


def touch(root: Root, kind: str, time_s: float) -> None:
    os.utime(root.clips / f"{root.shards()[2]}.{kind}", (time_s, time_s))


def replace_file(
    root: Root, kind: str, data: Callable[[bytes], bytes], time_s: float = 1e9
) -> None:
    path = root.clips / f"{root.shards()[2]}.{kind}"
    path.write_bytes(data(path.read_bytes()))
    os.utime(path, (time_s, time_s))


SHARDS: dict[str, Change] = {
    "tar touched": lambda root: touch(root, "tar", 2e9),
    "tar older": lambda root: touch(root, "tar", 1e9 - 9),
    "marker touched": lambda root: touch(root, "json", 2e9),
    "tar deleted": lambda root: (root.clips / f"{root.shards()[2]}.tar").unlink(),
    "marker deleted": lambda root: (root.clips / f"{root.shards()[2]}.json").unlink(),
    "tar replaced": lambda root: replace_file(root, "tar", lambda d: b"x" * len(d), 1e9 + 5),
    "tar of another size": lambda root: replace_file(root, "tar", lambda d: d + b"x"),
    "marker replaced": lambda root: replace_file(
        root, "json", lambda d: d.replace(b'"sha256": "', b'"sha256": "0')[:-1], 1e9 + 5
    ),
    "marker of another size": lambda root: replace_file(root, "json", lambda d: d + b" ", 1e9 + 1),
    "marker garbled": lambda root: replace_file(root, "json", lambda d: b"x" * len(d), 1e9 + 5),
    "index deleted": lambda root: (root.clips / "index.json").unlink(),
}  # fmt: skip


@pytest.mark.parametrize("name", SHARDS)
def test_shards_that_were_touched_are_found(name: str, root: Root) -> None:
    shard = root.shards()[2]
    SHARDS[name](root)
    root.cut_alike()
    found = {shard} if "index" not in name else set()
    assert set(root.read) | set(root.asked) == found
    root.cut_alike()


def test_flags_and_settings_do_what_they_do(root: Root) -> None:
    count = len(root.shards())
    root.cut_alike(retry_failed=True)
    assert len(root.made) == len(root.asked) == 1  # That of a/bad.mp4 and b/part.mp4.
    root.cut_alike(retry_failed=False, verify=True)
    assert len(root.asked) == count and root.made == []
    replace_file(root, "tar", lambda data: b"x" * len(data), 1e9)
    root.cut_alike(verify=False)
    assert root.made == []  # Neither size nor time says so.
    root.cut_alike(verify=True)
    assert root.made == [root.shards()[2]]
    root.cut_alike(verify=False, strict=True)
    with pytest.raises(IncompleteError, match="2 of 28 videos failed"):
        root.cut()
    assert set(root.read) == set(root.asked) == set()
    for changes in ({"val_fraction": 0.4, "strict": False}, {"limit": 20}, {"limit": None}):
        root.cut_alike(**changes)
        assert len(root.made) > 0
        root.cut_alike()
    root.cut_alike(shard_mb=1)
    root.cut_alike(shard_mb=None, videos_per_shard=1)
    root.cut_alike(videos_per_shard=3)
    moved = root.videos.rename(root.videos.with_name("moved"))
    root.cut_alike(videos=str(moved))
    assert root.made == root.asked == []
    root.cut_alike(labels="none")
    root.cut_alike(overwrite=True, scores=True)
    assert len(root.made) == len(root.shards())
    root.cut_alike(overwrite=False)
    assert root.made == []
    (moved / "b/new.mp4").write_text("a video")
    root.cut_alike()
    assert 1 <= len(root.made) <= 3 and set(root.read) <= set(root.made)


def test_further_columns_have_the_types_of_the_videos_that_are_left(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole numbers are floats as long as one video has a float."""
    list_sources, views = page.list_sources, {"a/4.mp4": 2.5}

    def described(*where: Any) -> SourceTable:
        """Two parts of each video, with columns; texts that UTF-8 lacks among them."""
        found = []
        for source in list_sources(*where):
            columns = {"views": views.get(source.path, 7), "list": [1], "text": utf8(source.path)}
            whole = replace(source, columns=json.dumps(columns))
            found += [
                replace(whole, start_s=s, end_s=s + 1, fps=f) for s, f in ((0.0, 8.0), (1.0, None))
            ]
        return SourceTable(found)

    def kind() -> str:
        return str(pq.read_schema(root.config.workspace.manifest).field("views").type)

    monkeypatch.setattr(page, "list_sources", described)
    root.cut_alike(scores=True, overwrite=True)
    root.config = replace(root.config, overwrite=False)
    root.settled()
    assert kind() == "double"
    root.add("b/1.mp4", "another")
    root.cut_alike()
    assert kind() == "double" and len(root.made) == 1 and set(root.read) <= set(root.made)
    views["a/4.mp4"] = 2
    root.settled()
    root.add("b/1.mp4", "a third")
    root.cut_alike()
    assert kind() == "int64" and len(root.made) == 1 and set(root.read) <= set(root.made)


def test_near_duplicates_are_looked_up_in_markers(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose copy a video is depends on all others."""

    def hashed(source: Any, *_: Any) -> str:
        name = source.path.replace("copy-", "").encode("utf-8", "surrogateescape")
        return hashlib.sha512(name).hexdigest()

    monkeypatch.setattr(perceptual_hash, "_hash", hashed)
    root.add("b/copy-4.mp4").rename(root.videos / "a/copy-4.mp4")
    filters = Filters(min_distance=1)
    root.cut_alike(overwrite=True, filters=filters)
    root.cut_alike(overwrite=False)
    assert set(root.read) == set(root.shards()) and not root.cache.exists()
    (root.videos / "a/4.mp4").unlink()
    root.cut_alike()
    rows = pq.read_table(root.config.workspace.manifest).to_pylist()
    assert "near_duplicate" not in {row["reason"] for row in rows}
    assert len(rows) == 28


def damaged(step: int) -> Change:
    def change(root: Root) -> None:
        data = bytearray(root.cache.read_bytes())
        data[4:-4:step] = bytes(byte ^ 0x5A for byte in data[4:-4:step])
        root.cache.write_bytes(data)
        os.utime(root.cache, (2e9, 2e9))

    return change


def other_metadata(root: Root, **changes: str) -> None:
    table = pq.read_table(root.cache)
    names = dict(table.schema.metadata) | {k.encode(): v.encode() for k, v in changes.items()}
    pq.write_table(table.replace_schema_metadata(names), root.cache)


FILES: dict[str, Change] = {
    "deleted": lambda root: root.cache.unlink(),
    "empty": lambda root: root.cache.write_bytes(b""),
    "cut off": lambda root: root.cache.write_bytes(root.cache.read_bytes()[:-99]),
    "garbled": damaged(97),
    "of other settings": lambda root: other_metadata(root, spec_hash="another"),
    "of another version": lambda root: other_metadata(root, format="0"),
    "of other columns": lambda root: pq.write_table(
        pq.read_table(root.cache).drop(["source_uri"]), root.cache
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_cache_that_cannot_be_used_is_made_again(name: str, root: Root) -> None:
    whole = root.cache.read_bytes()
    FILES[name](root)
    before = root.files()
    root.cut_alike()
    assert set(root.read) == set(root.shards()) and root.files() == before
    assert root.cache.read_bytes() == whole
    root.settled()
    FILES[name](root)
    root.add("a/new.mp4")
    root.cut_alike()


def test_what_size_and_time_do_not_tell_is_mended_as_the_message_says(root: Root) -> None:
    """A run that trusts them finds all done."""
    index = storage.read_json(str(root.clips / "index.json"))
    for kind, damage in (("json", b"?"), ("tar", b"\1")):
        path = root.clips / f"{root.shards()[1]}.{kind}"
        data, told = path.read_bytes(), path.stat()
        path.write_bytes(data[:-3] + damage + data[-2:])
        os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))
        root.cut()
        assert root.made == []
        with pytest.raises(UserError, match=r"run jobs/shard_videos\.py again with --verify"):
            for marker in load_markers(str(root.clips), index, "shard_videos"):
                list(shards.read_shard(str(root.clips), marker, "shard_videos"))
        root.config = replace(root.config, verify=True)
        root.cut()
        assert root.made == [path.stem] and path.read_bytes() == data
        root.config = replace(root.config, verify=False)
        root.settled()


def test_whatever_byte_is_damaged(root: Root) -> None:
    """What the file says is never another thing than what it said when it was written."""
    data, before = root.cache.read_bytes(), root.files()
    plans = page.plan_shards(root.config)
    listed = storage.written_below(str(root.clips))
    told = pq.read_table(root.cache)
    found = 0
    for place in range(4, len(data) - 8, 41):
        root.cache.write_bytes(data[:place] + bytes([data[place] ^ 0x21]) + data[place + 1 :])
        with marker_cache.opened(str(root.clips), plans.spec) as cache:
            for table in cache.find(plans, listed, False):
                found += 1
                names = table["name"].to_pylist()
                rows = [n for n, name in enumerate(told["name"].to_pylist()) if name in names]
                assert table.equals(told.take(pa.array(rows, pa.int64()))), place
    assert found and before == root.files()


@pytest.mark.parametrize("killed_at", ["videos.parquet", marker_cache.NAME, "index.json"])
def test_a_job_that_is_killed_before_a_file_goes_on_to_the_same_bytes(
    killed_at: str, root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.add("c/new.mp4")
    (root.videos / "a/4.mp4").unlink()
    expected, made, *_ = root.without_cache()
    originals = storage.publish_file, storage.publish_json

    def until(publish: Callable[..., None]) -> Callable[..., None]:
        def checked(source: Any, uri: str, **options: Any) -> None:
            if uri.endswith(killed_at):
                raise KeyboardInterrupt
            publish(source, uri, **options)

        return checked

    with monkeypatch.context() as patch:
        for name, publish in zip(("publish_file", "publish_json"), originals, strict=True):
            patch.setattr(storage, name, until(publish))
        with pytest.raises(KeyboardInterrupt):
            root.cut()
    assert set(root.made) == set(made)
    root.cut_alike()
    assert root.made == [] and root.files() == expected
    known = set(root.shards()) - set(root.read)
    # The killed job has not told, or has told, what it made.
    assert known >= set(root.shards()) - set(made)
    root.cut()
    assert root.read == []


def test_a_marker_that_another_wrote_after_the_task_is_read(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that counted as dead may write the same shard once more, with another outcome."""
    root.add("a/4.mp4", "another")
    keep_only = storage.keep_only

    def late(folder: str, names: set[str], made: re.Pattern[str]) -> Any:
        [name] = root.made
        path = root.clips / f"{name}.json"
        content = json.loads(path.read_bytes())
        content["details"]["videos"][0]["account"]["detail"] = "told by another"
        storage.publish_json(content, str(path))
        return keep_only(folder, names, made)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "keep_only", late)
        root.cut()
    [name] = root.made
    root.cut_alike()
    assert root.read == [name]
    rows = pq.read_table(root.config.workspace.manifest).to_pylist()
    assert "told by another" in {row["detail"] for row in rows}


NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
LATER = NOON + timedelta(seconds=1)


def test_files_are_known_by_size_and_time() -> None:
    shard = Shard("a", "5a", 1, "account", None, (7, NOON), (3, NOON))
    listed: dict[str, markers.Written] = {"a.tar": (7, NOON), "a.json": (3, NOON)}
    known = marker_cache._is_as_listed
    assert known(shard, listed, LATER)
    # Of a store that tells seconds: it may have been written twice within this one.
    assert not known(shard, listed, NOON) and not known(shard, listed, None)
    others = [(8, NOON), (7, LATER), (7, None), (7, NOON.replace(tzinfo=None))]
    for name in listed:
        for size, time in others:
            assert not known(shard, listed | {name: (size, time)}, LATER + timedelta(days=1))
        assert not known(shard, {n: listed[n] for n in listed if n != name}, LATER)
    untimed = replace(shard, tar=(7, None), marker=(3, None))
    assert not known(untimed, {"a.tar": (7, None), "a.json": (3, None)}, LATER)


def test_of_what_a_worker_made_the_sizes_are_compared() -> None:
    shard = Shard("a", "5a", 1, "account", None, (7, None), (3, None))
    both = marker_cache._facts(shard, {"a.tar": (7, NOON), "a.json": (3, LATER)})
    assert (both["tar_written"], both["marker_written"]) == (NOON, LATER)
    for tar, marker in (
        ((8, NOON), (3, LATER)),
        ((7, NOON), (4, LATER)),
        ((7, LATER), (3, NOON)),
        ((7, None), (3, LATER)),
        ((7, NOON), (3, None)),
    ):
        facts = marker_cache._facts(shard, {"a.tar": tar, "a.json": marker})
        assert (facts["tar_written"], facts["marker_written"]) == (None, None)
    seen = replace(shard, tar=(7, NOON), marker=(3, NOON))
    # Touched since it was read.
    assert marker_cache._facts(seen, {"a.tar": (7, NOON), "a.json": (3, LATER)}) == dict(
        zip(
            marker_cache.FACTS.names, ("a", "5a", 1, "account", None, 7, NOON, 3, NOON), strict=True
        )
    )


def test_a_dry_run_counts_what_is_known(root: Root) -> None:
    root.add("a/new.mp4")
    dry = replace(root.config, dry_run=True)
    root.read.clear()
    _, there, *_ = page.shard_videos(dry).splitlines()
    assert "of the shards are there" in there and len(root.read) <= 3
    root.cache.unlink()
    assert page.shard_videos(dry).splitlines()[1] == there
    assert set(root.read) == set(root.shards())
