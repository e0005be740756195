"""Large files in spans: which files, where spans begin, and what comes of them."""

from __future__ import annotations

import io
import json
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines import shard_videos as page
from pipelines.inspection.videos import summarise
from pipelines.io import checksums, object_store, storage
from pipelines.io.markers import read_marker
from pipelines.io.shards import ShardReader
from pipelines.sharding import clip_shards, foresight
from pipelines.sharding.clip_shards import DecodeLimits, ShardPlan, make_shard
from pipelines.sharding.clips import ClipSpec, CutRequest, check_header
from pipelines.sharding.manifest import Account, Source, from_marker, video_id
from pipelines.sharding.plan import assign_shards
from pipelines.sharding.settings import Filters, Limits, Selection
from pipelines.sharding.source_table import SourceTable
from pipelines.sharding.sources import list_sources, sampled
from pipelines.sharding.spans import divided
from pipelines.video.decoding_process import Deadline
from pipelines.video.encoder import decode_clip
from pipelines.video.header import VideoInfo
from pipelines.video.reasons import VideoError
from tests.faulty_store import connect_to, faulty_store
from tests.odd_videos import COUNT, corrupt, number_of, write
from tests.s3_proxy import S3Proxy, fault
from tests.unit.pipelines.test_shard_videos import Cutting, cutting
from vqvdm.errors import UserError

__all__ = ["cutting"]
SPEC = ClipSpec(frames=4, size=64, stride=4, rates=(None,), classes=())
MIB = 2**20


def grown(path: Path, mib: float) -> Path:
    """An MP4 of more bytes: players skip a box of the kind `free`."""
    missing = int(mib * MIB) - path.stat().st_size
    with open(path, "ab") as file:
        file.write(struct.pack(">I4s", missing, b"free") + bytes(missing - 8))
    return path


def large(path: Path, mib: float, count: int = COUNT, first: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return grown(write(path, "libx264", count=count, first=first), mib)


def spans_of(path: Path, count: int) -> list[Source]:
    whole = Source(path.name, str(path), path.stat().st_size, None, 1, None, "train")
    return [replace(whole, span=number + 1, spans=count) for number in range(count)]


def cut(sources: list[Source], folder: Path, spec: ClipSpec = SPEC) -> list[Account]:
    """The accounts of sources in one shard."""
    plan = ShardPlan(str(folder), "train-000000", tuple(sources), spec, DecodeLimits(60.0))
    make_shard({"plan": plan, "retry": False, "verify": False})
    marker = read_marker(str(folder), "train-000000")
    assert marker
    assert marker.sources == [source.id for source in sources]
    return [account for _, account in from_marker(marker.details)]


def pixels(folder: Path) -> list[tuple[float, float, bytes]]:
    """Rate, start and pixels of all clips of a folder, in this order."""
    found = []
    for tar in folder.glob("*.tar"):
        reader = ShardReader(str(tar))
        for key in reader.keys:
            said = json.loads(reader[key]["json"])
            found.append((said["fps"], said["start_s"], decode_clip(reader[key]["mkv"]).tobytes()))
    return sorted(found)


def planned(videos: Path, **options: object) -> list[Source]:
    selection = Selection(labels="none", **options)
    return list(list_sources(str(videos), selection))


def test_files_are_divided_by_their_size_alone(tmp_path: Path) -> None:
    """Neither what is small, nor what has no index or lies elsewhere."""
    sizes = {"a.mp4": 2.5, "b.MKV": 1.01, "c.webm": 1, "d.avi": 0.3, "e.ts": 9, "f.gif": 9}
    for name, mib in sizes.items():
        (tmp_path / name).write_bytes(bytes(int(mib * MIB)))
    found = planned(tmp_path, span_mb=1, val_fraction=0.0)
    assert [(s.path, s.span, s.spans) for s in found] == [
        ("a.mp4", 1, 3),
        ("a.mp4", 2, 3),
        ("a.mp4", 3, 3),
        ("b.MKV", 1, 2),
        ("b.MKV", 2, 2),
        *((name, None, None) for name in ("c.webm", "d.avi", "e.ts", "f.gif")),
    ]
    assert len({s.id for s in found}) == len(found)
    assert {s.whole_id for s in found} == {video_id(name) for name in sizes}
    whole = {s.path: s for s in planned(tmp_path, val_fraction=0.0)}
    assert all(whole[s.path] == s and s.id == video_id(s.path) for s in found if not s.span)
    one = whole["a.mp4"]
    changes: list[dict] = [
        {"uri": "https://host/a.mp4"},
        {"container": "a.tar"},
        {"refused": "no_answer: at all"},
        {"start_s": 1.0},
        {"end_s": 1.0},
        {"size": None},
        {"frames_fps": 25.0},
    ]
    for change in changes:
        other = replace(one, **change)
        assert list(divided([other], Selection(span_mb=1))) == [other], change
    assert len(list(divided([replace(one, fps=8.0)], Selection(span_mb=1)))) == 3


def test_a_table_that_names_parts_goes_before(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.mp4").write_bytes(bytes(2 * MIB + 1))
    table = tmp_path / "labels.csv"
    table.write_text("path,label,start_s,end_s\na.mp4,x,0,4\na.mp4,x,4,8\nb.mp4,y,,\n")
    found = list(list_sources(str(tmp_path), Selection(labels=str(table), span_mb=1)))
    assert [(s.path, s.label, s.start_s, s.span) for s in found] == [
        ("a.mp4", "x", 0, None),
        ("a.mp4", "x", 4, None),
        *(("b.mp4", "y", None, number) for number in (1, 2, 3)),
    ]


def test_spans_of_a_file_are_one_video_to_splits_groups_and_limits(tmp_path: Path) -> None:
    for number in range(12):
        path = tmp_path / f"v_g{number // 2:02d}_c{number % 2}.mp4"
        path.write_bytes(bytes(3 * MIB if number % 3 == 0 else 9))
    (tmp_path / "val.txt").write_text("v_g03_c0.mp4\nv_g03_c1.mp4\n")
    options: list[dict] = [{"val_fraction": 0.4}, {"val_list": str(tmp_path / "val.txt")}]
    for option in options:
        whole = planned(tmp_path, group_by=r"_g\d+_", **option)
        found = planned(tmp_path, group_by=r"_g\d+_", span_mb=1, **option)
        assert len(found) == len(whole) + 4 * 2
        split_of = {source.path: source.split for source in whole}
        assert {source.split for source in found} == {"train", "val"}
        assert all(source.split == split_of[source.path] for source in found)
    table = SourceTable(found)
    for limit in range(1, 12):
        chosen = list(sampled(table, limit))
        counts = Counter(source.path for source in chosen)
        assert len(counts) == limit
        assert all(counts[s.path] == (s.spans or 1) for s in chosen)


def test_all_spans_of_one_file_are_one_split(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(bytes(9 * MIB))
    for fraction in (0.1, 0.5, 0.99):
        [split] = {s.split for s in planned(tmp_path, span_mb=1, val_fraction=fraction)}
        assert split == "train"


def test_a_file_at_two_rates_has_two_first_spans() -> None:
    whole = Source("a.mp4", "/a.mp4", 3 * MIB, None, 1, None, "train")
    rows = [replace(whole, fps=fps) for fps in (8.0, 16.0)] + [replace(whole, path="b.gif", size=1)]
    table = SourceTable(divided(rows, Selection(span_mb=1)))
    table.sort()
    found = list(table)
    assert [s.span for s in found] == [1, 1, 2, 2, 3, 3, None]
    firsts = [found[row] for row in table.first_spans_N]
    assert [(s.path, s.fps) for s in firsts] == [(s.path, s.fps) for s in found]
    assert [s.span for s in firsts] == [1] * 6 + [None]
    assert table.sizes_N.tolist() == [MIB] * 6 + [1]
    part = table.subset(np.array([6, 1, 3, 5]))
    assert part.first_spans_N.tolist() == [0, 1, 1, 1]


def test_a_span_is_a_shard_and_other_shards_are_what_they_were() -> None:
    small = [Source(f"{n}.mp4", f"/{n}.mp4", MIB, None, 1, None, "train") for n in range(300)]
    films = [replace(small[0], path=f"f{n}.mkv", uri=f"/f{n}.mkv", size=7 * MIB) for n in range(9)]

    def shards(sources: list[Source], **options: int) -> dict[str, set[str]]:
        table = SourceTable(divided(sources, Selection(span_mb=1)))
        table.sort()
        return {
            place.name: {s.id for s in table.take(place.rows_N)}
            for place in assign_shards(table, 64, **options)
        }

    for options in ({}, {"shard_bytes": 50 * MIB}):
        before, after = shards(small, **options), shards([*small, *films], **options)
        assert before.items() <= after.items()
        others = [after[name] for name in after.keys() - before.keys()]
        assert len(others) == 63 and all(len(ids) == 1 for ids in others)
        only = shards(films[1:], **options)
        assert len(only) == 56 and only.items() <= after.items()


def borders(length_s: float | None, count: int, fps: float = 25.0, **spec: object) -> list:
    """The spans that are not empty; the others have to be the last ones."""
    info = VideoInfo(length_s, fps, 64, 64, "h264")
    found: list = []
    for number in range(count):
        request = CutRequest("", replace(SPEC, **spec), span=(number + 1, count))
        try:
            part = check_header(info, request)
        except VideoError as error:
            if error.reason != "empty_span":
                raise
            found.append(None)
        else:
            assert None not in found
            found.append((part.start_s, part.end_s))
    return [each for each in found if each]


@pytest.mark.parametrize("fps", [25.0, 30000 / 1001, 24000 / 1001, 12.34])
@pytest.mark.parametrize("rates", [(None,), (8.0,), (8.0, 12.0), (None, 8.0), (7.3, None)])
@pytest.mark.parametrize(("frames", "stride"), [(16, 16), (16, 5), (16, 40), (1, 1)])
def test_spans_follow_each_other_on_the_grid_of_clips(
    fps: float, rates: tuple[float | None, ...], frames: int, stride: int
) -> None:
    found = borders(5000.0, 9, fps, rates=rates, frames=frames, stride=stride)
    assert found[0][0] == 0 and found[-1][1] is None
    for (_, end_s), (start_s, _) in zip(found, found[1:], strict=False):
        assert end_s == start_s
    slowest = min(rate or fps for rate in rates)
    lengths_s = [(5000.0 if end_s is None else end_s) - start_s for start_s, end_s in found]
    assert min(lengths_s) >= frames / slowest - 1e-6
    if len(rates) == 1:
        exact = Fraction(rates[0] or fps).limit_denominator(100_000)
        places = [Fraction(start_s) * exact / stride for start_s, _ in found]
        assert max(abs(place - round(place)) for place in places) < 1e-6
        assert len(found) == 9 and max(lengths_s) - min(lengths_s) < 2 * max(stride, frames) / exact


def test_clips_of_all_rates_begin_where_spans_do() -> None:
    found = borders(600.0, 7, rates=(8.0, 12.0), frames=16, stride=16)
    assert [start_s for start_s, _ in found] == [0.0, 84.0, 168.0, 256.0, 340.0, 428.0, 512.0]


def test_there_are_no_more_spans_than_clips() -> None:
    assert borders(1.0, 9, frames=16, stride=16) == [(0.0, None)]
    assert borders(2.0, 9, frames=16, stride=16) == [(0.0, 0.64), (0.64, 1.28), (1.28, None)]
    assert borders(None, 9) == [(0.0, None)]


def test_a_limit_of_length_judges_the_span_and_a_filter_the_video() -> None:
    limits = Limits(max_duration_s=3600.0)
    assert len(borders(9 * 3600.0, 9, limits=limits)) == 9
    with pytest.raises(VideoError, match=r"too_long: 4049\.9 s"):
        borders(9 * 3600.0, 8, limits=limits, frames=10)
    filters = Filters(min_duration_s=60.0)
    assert len(borders(90.0, 3, filters=filters)) == 3
    with pytest.raises(VideoError, match=r"too_brief: 59\.00 s"):
        borders(59.0, 3, filters=filters)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.mov"])
@pytest.mark.parametrize("rates", [(None,), (6.25, 12.5)])
def test_spans_have_the_pixels_of_the_whole(
    name: str, rates: tuple[float | None, ...], tmp_path: Path
) -> None:
    path, spec = write(tmp_path / name, "libx264"), replace(SPEC, rates=rates)
    [whole] = cut([replace(spans_of(path, 1)[0], span=None, spans=None)], tmp_path / "whole", spec)
    accounts = cut(spans_of(path, 2), tmp_path / "spans", spec)
    assert [account.status for account in accounts] == ["ok", "ok"]
    assert sum(account.clips for account in accounts) == whole.clips
    assert sum(account.frames for account in accounts) == pytest.approx(whole.frames, abs=1)
    assert pixels(tmp_path / "spans") == pixels(tmp_path / "whole") != []
    assert accounts[0].end_s == accounts[1].start_s == (0.64 if rates[0] else 0.8)
    assert (accounts[0].start_s, accounts[1].end_s) == (0.0, None)
    assert whole.start_s is None


def test_at_a_variable_rate_no_frame_is_in_two_spans(tmp_path: Path) -> None:
    times = np.cumsum(np.random.default_rng(2).integers(20, 80, COUNT)).tolist()
    path = write(tmp_path / "a.mkv", "libx264", times=times)
    accounts = cut(spans_of(path, 3), tmp_path / "clips")
    assert [account.status for account in accounts] == ["ok"] * 3
    shown = np.concatenate(
        [
            np.frombuffer(clip, np.uint8).reshape(4, 64, 64, 3)
            for _, start_s, clip in sorted(pixels(tmp_path / "clips"), key=lambda each: each[1])
        ]
    )
    numbers = [number_of(frame) for frame in shown]
    assert numbers == sorted(set(numbers)) and len(numbers) >= COUNT - 3 * 3
    assert sum(account.frames for account in accounts) == COUNT


def test_a_header_without_length_gives_all_to_the_first_span(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    write(path, "libx264", form="matroska", live="1")
    path.write_bytes(path.read_bytes().replace(b"\x44\x89\x88", b"\xec\x88\x80"))
    accounts = cut(spans_of(path, 3), tmp_path / "clips")
    assert accounts[0].duration_s is None
    assert [(a.status, a.reason, a.clips) for a in accounts] == [
        ("ok", None, COUNT // 4),
        *[("rejected", "empty_span", 0)] * 2,
    ]
    assert not any(account.failed for account in accounts)


def test_damage_hurts_its_span_only(tmp_path: Path) -> None:
    path = corrupt(write(tmp_path / "a.mp4", "libx264", count=60))
    accounts = cut(spans_of(path, 3), tmp_path / "clips")
    assert [account.reason for account in accounts] == [None, "damaged", None]
    assert [account.clips for account in accounts][::2] == [5, 5]
    whole = cut([replace(spans_of(path, 1)[0], span=None, spans=None)], tmp_path / "whole")
    assert whole[0].reason == "damaged"


@pytest.fixture
def films(cutting: Cutting) -> Iterator[Cutting]:
    """Ten small videos, and one of three spans."""
    large(cutting.videos / "berry/film.mp4", 2.5, count=60)
    cutting.cut(span_mb=1)
    yield cutting


def film_rows(films: Cutting) -> list[dict]:
    rows = [row for row in films.rows() if row["uri"].endswith("film.mp4")]
    return sorted(rows, key=lambda row: row["start_s"])


def test_a_root_with_a_film(films: Cutting) -> None:
    rows = film_rows(films)
    assert [(row["span"], row["spans"]) for row in rows] == [(1, 3), (2, 3), (3, 3)]
    assert [row["start_s"] for row in rows] == [0.0, 0.8, 1.6]
    assert [row["end_s"] for row in rows] == [0.8, 1.6, None]
    assert {row["status"] for row in rows} == {"ok"} and {row["split"] for row in rows} == {
        rows[0]["split"]
    }
    others = [row for row in films.rows() if not row["uri"].endswith("film.mp4")]
    assert len(others) == 10 and {row["span"] for row in others} == {None}
    names = {f"{row['split']}-{row['id']}" for row in rows}
    assert names < set(films.index()["shards"])
    before = films.files()
    assert films.cut() == (set(), set()) and films.files() == before
    assert films.config.recipe() == replace(films.config, span_mb=512).recipe()


def test_other_files_of_a_root_are_what_they_were(cutting: Cutting) -> None:
    before = cutting.files()
    shards = {name for name in before if name.endswith(".tar")}
    film = large(cutting.videos / "berry/film.mp4", 2.5)
    made, decoded = cutting.cut(span_mb=1)
    assert len(made) == 3 and decoded == {"berry/film.mp4"}
    after = cutting.files()
    assert all(after[name] == before[name] for name in shards)
    film.unlink()
    assert cutting.cut() == (set(), set())
    assert cutting.files() == before


def test_a_span_whose_marker_is_gone_is_made_again_alone(films: Cutting) -> None:
    row, before = film_rows(films)[1], films.files()
    name = f"{row['split']}-{row['id']}"
    Path(films.config.workspace.clips, f"{name}.json").unlink()
    films.decoded.clear()
    made, _ = films.cut()
    assert made == {name} and films.decoded == ["berry/film.mp4"]
    assert films.files() == before


def test_retry_and_markers_know_spans(films: Cutting) -> None:
    corrupt(films.videos / "berry/film.mp4")
    size = films.videos / "berry/film.mp4"
    assert size.stat().st_size == int(2.5 * MIB)
    made, _ = films.cut()
    assert len(made) == 3 and films.cut() == (set(), set())
    Path(films.config.workspace.clips, "marker_cache.parquet").unlink()
    assert films.cut() == (set(), set())


def test_near_duplicates_are_told_by_whole_files(films: Cutting) -> None:
    """Spans of one still film are alike, and are no copies of each other."""
    films.cut(overwrite=True, filters=Filters(min_distance=1))
    rows = film_rows(films)
    assert {row["reason"] for row in rows} == {None}
    films.config = replace(films.config, overwrite=False)
    copy = films.videos / "berry/gopy.mp4"
    copy.write_bytes((films.videos / "berry/film.mp4").read_bytes())
    grown(copy, 3.5)
    films.cut()
    copies = [row for row in films.rows() if row["uri"].endswith("gopy.mp4")]
    assert [row["reason"] for row in copies] == ["near_duplicate"] * 4
    assert {row["detail"] for row in copies} == {"of berry/film.mp4"}
    assert films.cut() == (set(), set())


def test_a_dry_run_reckons_spans_by_their_length(
    films: Cutting, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in films.videos.rglob("*.mp4"):
        if place.name != "film.mp4":
            place.unlink()
    monkeypatch.setattr(foresight, "PART_S", 0.32)
    config = replace(films.config, root=str(films.videos.parent / "other"), dry_run=True)
    lines = page.shard_videos(config).splitlines()
    assert lines[0].startswith("would cut 3 videos of 1 classes into 3 shards")
    assert lines[1] == "note: 3 of these videos are spans of 1 large file"
    assert lines[2].startswith("about 15 clips")


def test_inspection_counts_the_seconds_of_spans(films: Cutting) -> None:
    table = pq.read_table(films.config.workspace.manifest)
    found = summarise(table, films.index()["classes"])
    rows = [row for row in films.rows() if row["clips"]]
    lengths_s = {row["uri"]: row["duration_s"] for row in rows}
    assert found.hours * 3600 == pytest.approx(sum(lengths_s.values()))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Proxy]:
    with faulty_store(tmp_path_factory.mktemp("store")) as proxy:
        yield proxy


class Remote:
    """A file in a bucket, and the same on a disk; reads of ranges are counted."""

    def __init__(self, folder: Path, store: S3Proxy, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.store = folder, store
        self.read: list[tuple[int, int]] = []
        connect_to(store, patch)
        store.plan()
        read = object_store.read_range

        def counted(fs: object, path: str, start: int, end: int) -> bytes:
            self.read.append((start, end))
            return read(fs, path, start, end)

        patch.setattr(object_store, "read_range", counted)

    def put(self, path: Path) -> str:
        self.uri = f"s3://bucket/{checksums.digest(str(path))}/{path.name}"
        storage.publish_file(path, self.uri)
        return self.uri

    def spans(self, path: Path, count: int) -> list[Source]:
        """Of the remote file, with the ids of those of the local one."""
        info = storage.info(self.put(path))
        assert info
        return [
            replace(each, uri=info.uri, etag=info.etag, mtime_ns=None)
            for each in spans_of(path, count)
        ]

    def bytes(self) -> int:
        return sum(end - start for start, end in self.read)


@pytest.fixture
def bucket(tmp_path: Path, store: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> Remote:
    return Remote(tmp_path, store, monkeypatch)


def noise(path: Path, count: int = 400) -> Path:
    """A video of 20 MiB, with sound beside it: no frame is like another."""
    path.write_bytes(_noise(path.suffix[1:], count))
    return path


@cache
def _noise(form: str, count: int) -> bytes:
    rng, file = np.random.default_rng(0), io.BytesIO()
    with av.open(file, "w", format={"mkv": "matroska"}.get(form, form)) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 160, 240, "yuv420p", 8
        stream.thread_count, stream.codec_context.bit_rate = 1, 50_000_000
        sound = container.add_stream("aac", rate=8000, layout="mono")
        for number in range(count):
            pixels = rng.integers(0, 256, (160, 240, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            if number % 25 == 0:
                heard = rng.integers(-9999, 9999, (1, 8000), np.int16)
                audio = av.AudioFrame.from_ndarray(heard, format="s16", layout="mono")
                audio.rate, audio.pts = 8000, number * 320
                container.mux(sound.encode(audio))
        container.mux(stream.encode())
        container.mux(sound.encode())
    return file.getvalue()


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.mov"])
def test_spans_in_a_bucket_read_their_bytes_once(name: str, tmp_path: Path, bucket: Remote) -> None:
    path = noise(tmp_path / name)
    count = 3
    here = cut(spans_of(path, count), tmp_path / "here")
    bucket.store.plan()
    sources = bucket.spans(path, count)
    there = cut(sources, tmp_path / "there")
    assert there == here and {account.status for account in here} == {"ok"}
    assert sum(account.clips for account in here) == 400 // 4
    tars = [(tmp_path / place / "train-000000.tar").read_bytes() for place in ("here", "there")]
    assert tars[0] == tars[1]
    size = path.stat().st_size
    assert size > 10 * MIB
    assert bucket.store.count("get") == 0
    assert bucket.bytes() <= 1.3 * size, (bucket.bytes() / size, bucket.read)


def test_files_in_a_bucket_are_divided(bucket: Remote) -> None:
    path = large(bucket.folder / "some.mp4", 2.5)
    uri = bucket.put(path)
    selection = Selection(labels="none", span_mb=1)
    found = list(list_sources(uri.rpartition("/")[0], selection))
    assert [source.span for source in found] == [1, 2, 3]
    storage.delete(uri)


def test_a_store_that_dies_is_no_damage_of_a_video(
    bucket: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = bucket.spans(noise(bucket.folder / "a.mp4"), 2)
    read = object_store.read_range

    def dying(fs: object, path: str, start: int, end: int) -> bytes:
        if len(bucket.read) == 3:
            bucket.store.plan(fault(500))
        return read(fs, path, start, end)

    monkeypatch.setattr(object_store, "read_range", dying)
    with pytest.raises(UserError, match=r"cannot read s3://bucket/.*a\.mp4 of the s3 store"):
        cut(sources[:1], bucket.folder / "clips")
    assert len(bucket.read) > 3 and not list((bucket.folder / "clips").glob("*"))
    bucket.store.plan()
    assert [account.status for account in cut(sources, bucket.folder / "clips")] == ["ok", "ok"]


def test_a_read_that_fails_for_a_while_is_repeated(bucket: Remote) -> None:
    sources = bucket.spans(noise(bucket.folder / "a.mp4", count=100), 2)
    for kind in (503, "cut", "drop", "short_range"):
        bucket.store.plan(fault(kind, "get_range", times=1))
        accounts = cut(sources, bucket.folder / f"{kind}")
        assert [account.status for account in accounts] == ["ok", "ok"], kind
    assert bucket.store.count("get_range") > 2


@pytest.mark.parametrize("when", [0, 2])
def test_a_file_that_changes_is_refused(
    when: int, bucket: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = noise(bucket.folder / "a.mp4")
    sources = bucket.spans(path, 2)
    read, other = object_store.read_range, corrupt(path).read_bytes()

    def changing(fs: object, path: str, start: int, end: int) -> bytes:
        if len(bucket.read) == when:
            storage.publish_bytes(other, bucket.uri)
        return read(fs, path, start, end)

    if when:
        monkeypatch.setattr(object_store, "read_range", changing)
    else:
        storage.publish_bytes(other, bucket.uri)
    with pytest.raises(UserError, match="has changed since it was listed: run the same command"):
        cut(sources, bucket.folder / "clips")
    assert not list((bucket.folder / "clips").glob("*"))


def test_a_file_that_goes_or_is_closed_has_its_reason(
    bucket: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = bucket.spans(noise(bucket.folder / "a.mp4", count=200), 1)
    read = object_store.read_range

    def closing(fs: object, path: str, start: int, end: int) -> bytes:
        if start:
            raise PermissionError("closed")
        return read(fs, path, start, end)

    monkeypatch.setattr(object_store, "read_range", closing)
    [account] = cut(sources, bucket.folder / "closed")
    assert (account.status, account.reason) == ("rejected", "no_permission")
    storage.delete(bucket.uri)
    [account] = cut(sources, bucket.folder / "gone")
    assert (account.status, account.reason) == ("rejected", "missing")


def test_the_time_of_a_span_is_that_of_its_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines = list[Deadline]()

    def noted(allowed_s: float) -> Deadline:
        deadlines.append(Deadline(allowed_s))
        return deadlines[-1]

    monkeypatch.setattr(clip_shards, "Deadline", noted)
    path = write(tmp_path / "a.mkv", "libx264", times=[9000 * number for number in range(COUNT)])
    accounts = cut(spans_of(path, 3), tmp_path / "clips")
    minutes = [deadline.allowed_s / 60.0 for deadline in deadlines]
    length_s = accounts[0].duration_s
    assert length_s and length_s == pytest.approx(9 * COUNT, abs=10)
    # Two minutes, and one more for the last clip; of the whole there are six.
    assert minutes[:2] == [3, 3] and accounts[0].end_s == pytest.approx(120, abs=5)
