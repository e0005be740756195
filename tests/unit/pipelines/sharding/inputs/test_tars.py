"""Tars of videos: the same clips as their folder's, and every fault accounted for."""

import json
import os
import tarfile
from collections import Counter
from pathlib import Path
from threading import Barrier

import pytest

from pipelines.io import storage
from pipelines.io.disk import FileInfo
from pipelines.sharding.inputs import tars
from tests.input_folders import fill, found
from tests.odd_videos import write
from tests.video_tars import cut, member, tar
from vqvdm.errors import UserError


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A video of five clips."""
    return write(tmp_path_factory.mktemp("video") / "a.mp4", "libx264", count=20).read_bytes()


def headers(path: str) -> list[tarfile.TarInfo]:
    with tarfile.open(path) as archive:
        return archive.getmembers()


def refused(videos: str) -> dict[str, str]:
    """Reasons by path of what the listing refused; each stands in the account of its video."""
    sources = found(videos, labels="none")
    listed = {path: source.refused for path, source in sources.items() if source.refused}
    accounts, _ = cut([sources[path] for path in listed], Path(videos).parent / "refused")
    for path, why in listed.items():
        reason, _, detail = why.partition(": ")
        account = accounts[path]
        assert (account.status, account.reason, account.detail) == ("rejected", reason, detail)
    return listed


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_gives_the_clips_of_its_folder(form: int, tmp_path: Path, mp4: bytes) -> None:
    long = "dog/" + "n" * 90 + ".mp4"
    other = write(tmp_path / "other.avi", "mpeg4", count=9).read_bytes()
    contents = {"./cat/1.mp4": mp4, "cat/ü.avi": other, long: mp4, "cat/notes.pdf": b"x"}
    for name, content in contents.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    packed = tar(tmp_path / "a.tar", *(member(n, c) for n, c in contents.items()), form=form)
    folder, packed_sources = found(str(tmp_path / "folder")), found(packed)
    assert [(s.id, s.label, s.split) for s in folder.values()] == [
        (s.id, s.label, s.split) for s in packed_sources.values()
    ]
    assert packed_sources["cat/1.mp4"].uri == f"{packed}/cat/1.mp4"
    _, wanted = cut(list(folder.values()), tmp_path / "from-folder")
    accounts, clips = cut(list(packed_sources.values()), tmp_path / "from-tar")
    assert clips == wanted and len(clips) == 5 + 2 + 5
    assert {account.status for account in accounts.values()} == {"ok"}


def test_what_lies_beside_a_video_describes_it(tmp_path: Path, mp4: bytes) -> None:
    said = {"label": "cat", "caption": "a cat", "beauty": 0.5, "tags": ["x", {"y": None}]}
    packed = tar(
        tmp_path / "a.tar",
        member("0001.json", json.dumps(said).encode()), member("0001.mp4", mp4),
        member("0002.mp4", mp4), member("0002.cls", b"dog\n"), member("0002.txt", b" a dog \n"),
        member("0003.left.mp4", mp4), member("0003.json", b'{"label": 7, "split": "test"}'),
    )  # fmt: skip
    with pytest.raises(UserError, match="some rows have a split"):
        found(packed)
    (tmp_path / "labels.csv").write_text("path,label\n0001.mp4,cat\n0002.mp4,dog\n")
    chosen = found(packed, labels=str(tmp_path / "labels.csv"), val_fraction=0.0)
    assert {path: s.label for path, s in chosen.items()} == {"0001.mp4": "cat", "0002.mp4": "dog"}
    _, clips = cut(list(chosen.values()), tmp_path / "clips")
    by_source = {m["source"]: m for c in clips for m in [json.loads(c.members["json"])]}
    first, second = by_source["0001.mp4"], by_source["0002.mp4"]
    assert (first["caption"], first["beauty"], first["tags"]) == ("a cat", 0.5, ["x", {"y": None}])
    assert (second["caption"], second["label"], second["class_index"]) == ("a dog", "dog", 1)
    assert "beauty" not in second


def test_labels_and_splits_of_descriptions(tmp_path: Path) -> None:
    packed = tar(
        tmp_path / "a.tar",
        member("x/1.mp4", b"1"), member("x/1.json", b'{"label": 7, "split": "test"}'),
        member("x/2.mp4", b"1"), member("x/2.cls", b"8"), member("x/2.json", b'{"split": "train"}'),
    )  # fmt: skip
    said = {path: (s.label, s.split) for path, s in found(packed).items()}
    assert said == {"x/1.mp4": ("7", "val"), "x/2.mp4": ("8", "train")}
    assert {s.label for s in found(packed, labels="none").values()} == {None}


def test_names_with_dots_have_descriptions_of_their_own(tmp_path: Path) -> None:
    packed = tar(
        tmp_path / "a.tar",
        member("clip.001.mp4", b"1"), member("clip.001.txt", b"one"), member("clip.001.cls", b"x"),
        member("clip.002.mp4", b"1"), member("clip.002.txt", b"two"), member("clip.002.cls", b"y"),
        member("both.left.mp4", b"1"), member("both.txt", b"both"), member("both.cls", b"z"),
        member("both.right.mp4", b"1"), member("both.right.txt", b"right"),
    )  # fmt: skip
    assert {path: (s.label, s.columns) for path, s in found(packed).items()} == {
        "clip.001.mp4": ("x", '{"caption": "one"}'), "clip.002.mp4": ("y", '{"caption": "two"}'),
        "both.left.mp4": ("z", '{"caption": "both"}'),
        "both.right.mp4": ("z", '{"caption": "right"}'),
    }  # fmt: skip


def test_nothing_in_the_json_hides_no_file(tmp_path: Path) -> None:
    packed = tar(
        tmp_path / "a.tar",
        member("1.mp4", b"1"), member("1.json", b'{"label": null, "caption": null}'),
        member("1.cls", b"x"), member("1.txt", b"one"),
    )  # fmt: skip
    [source] = found(packed).values()
    assert (source.label, source.columns) == ("x", '{"caption": "one"}')


def test_sets_of_tars(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Braces, stars and folders name the same; a name that two tars have gets its tar's."""
    names = ["same.mp4", ".hidden.mp4", "notes.pdf", "wave.webp", "proxy.lrv"]
    for number in range(3):
        members = [member(f"cat/{n}", b"1") for n in (*names, f"{number}.mp4")]
        tar(tmp_path / f"shards/part/{number:03d}.tar", *members)
    below = {path for n in range(3) for path in (f"cat/{n}.mp4", f"part/{n:03d}.tar/cat/same.mp4")}
    assert found(f"{tmp_path}/shards").keys() == below
    assert "3 hidden or system files are skipped" in (said := capsys.readouterr().out)
    assert "9 files are skipped as not videos (3 .lrv, 3 .pdf, 3 .webp)" in said
    by_pattern = found(f"{tmp_path}/shards/part/*.tar")
    assert by_pattern.keys() == {path.removeprefix("part/") for path in below}
    assert {s.label for s in by_pattern.values()} == {"cat"}
    assert found(f"{tmp_path}/shards/part/{{000..002}}.tar") == by_pattern
    more = found(f"{tmp_path}/shards/part/{{000..003}}.tar", labels="none")
    assert {path for path, s in more.items() if s.refused == "missing: no such file"} == {"003.tar"}
    with pytest.raises(UserError, match=r"--videos .*\{4\.\.5\}\.tar: no such file"):
        found(f"{tmp_path}/{{4..5}}.tar")


def test_names_in_braces_are_looked_up_once_and_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        tar(tmp_path / f"{number}.tar", member(f"{number}.mp4", b"1"))
    asked, together, original = Counter[str](), Barrier(8), storage.info

    def info(uri: str) -> FileInfo | None:
        asked[uri] += 1
        if "{" not in uri:
            together.wait(30)  # Until all eight are asked for.
        return original(uri)

    monkeypatch.setattr(storage, "info", info)
    assert len(found(f"{tmp_path}/{{0..7}}.tar", labels="none")) == 8
    assert [asked[f"{tmp_path}/{number}.tar"] for number in range(8)] == [1] * 8


def test_a_name_that_exists_is_no_pattern(tmp_path: Path) -> None:
    tar(tmp_path / "[1]{a,b}*.tar", member("1.mp4", b"1"))
    assert found(f"{tmp_path}/[1]{{a,b}}*.tar").keys() == {"1.mp4"}
    fill(tmp_path / "folder.tar", "cat/1.mp4")
    assert found(f"{tmp_path}/folder.tar")["cat/1.mp4"].container is None


def test_tars_beside_videos_are_not_opened(tmp_path: Path) -> None:
    fill(tmp_path, "cat/1.mp4", "more.tar")
    assert found(str(tmp_path)).keys() == {"cat/1.mp4"}


def test_what_is_no_plain_member_is_refused(tmp_path: Path, mp4: bytes) -> None:
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sparse.mp4",
              "GNU.sparse.realsize": "1024"}  # fmt: skip
    packed = tar(
        tmp_path / "a.tar",
        member("good.mp4", mp4),
        member("soft.mp4", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("hard.mp4", type=tarfile.LNKTYPE, linkname="good.mp4"),
        member("device.mp4", type=tarfile.CHRTYPE),
        member("../out.mp4", mp4),
        member("/root.mp4", mp4),
        member("a/../../up.mp4", mp4),
        member("sparse.mp4", b"1\n0\n512\n".ljust(512, b"\0") + b"x" * 512, pax_headers=sparse),
    )
    why = refused(packed)
    assert {reason.partition(": ")[0] for reason in why.values()} == {"not_a_member"}
    assert why.keys() == {"soft.mp4", "hard.mp4", "device.mp4", "../out.mp4", "/root.mp4",
                          "../up.mp4", "sparse.mp4"}  # fmt: skip
    accounts, clips = cut([found(packed, labels="none")["good.mp4"]], tmp_path / "clips")
    assert accounts["good.mp4"].status == "ok" and len(clips) == 5


def test_a_tar_that_is_cut_off_gives_what_is_whole(tmp_path: Path, mp4: bytes) -> None:
    whole = tar(tmp_path / "a.tar", *(member(f"{n}.mp4", mp4) for n in range(3)))
    end = headers(whole)[2].offset_data
    os.truncate(whole, end + 700)
    reasons = refused(whole)
    assert reasons.pop("2.mp4") == f"damaged_tar: its last {len(mp4) - 700} bytes are missing"
    assert reasons == {"a.tar": "damaged_tar: unexpected end of data"}
    sources = found(whole, labels="none")
    _, clips = cut([sources["0.mp4"], sources["1.mp4"]], tmp_path / "clips")
    assert len(clips) == 10
    os.truncate(whole, end - 512)
    assert refused(whole) == {"a.tar": "damaged_tar: it has no end mark; members may be missing"}


def test_a_damaged_header_ends_a_tar(tmp_path: Path, mp4: bytes) -> None:
    whole = tar(tmp_path / "a.tar", *(member(f"{n}.mp4", mp4) for n in range(3)))
    place = headers(whole)[1].offset
    size = os.path.getsize(whole)
    with open(whole, "r+b") as file:
        file.seek(place + 100)
        file.write(b"\xff" * 100)
    why = f"damaged_tar: the rest after byte {place} of {size} cannot be read"
    assert refused(whole) == {"a.tar": why}
    assert found(whole, labels="none").keys() == {"0.mp4", "a.tar"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"no tar" * 999, "damaged_tar"), (b"\xff" * 100, "damaged_tar")],
)
def test_what_is_no_tar_has_a_row(content: bytes, reason: str, tmp_path: Path) -> None:
    tar(tmp_path / "videos/good.tar", member("1.mp4", b"1"))
    (tmp_path / "videos/bad.tar").write_bytes(content)
    [(path, why)] = refused(f"{tmp_path}/videos").items()
    assert path == "bad.tar" and why.startswith(f"{reason}: ")


@pytest.mark.parametrize(
    ("name", "content", "detail"),
    [
        ("json", b"{", "Expecting property name"),
        ("json", b"[1]", "its JSON is no object"),
        ("json", b"[" * 100_000, "its JSON is nested too deeply"),
        ("json", b'{"label": [1]}', "label is no text or number"),
        ("json", b'{"split": "tset"}', "split 'tset' is none of"),
        ("txt", b"\xff\xfe", "codec can't decode"),
        ("txt", b"x" * (tars.MAX_TEXT + 1), "is longer than"),
    ],
)
def test_a_bad_description_costs_its_video(
    name: str, content: bytes, detail: str, tmp_path: Path
) -> None:
    packed = tar(
        tmp_path / "a.tar",
        member("1.mp4", b"1"), member(f"1.{name}", content), member("2.mp4", b"1"),
    )  # fmt: skip
    [(path, why)] = refused(packed).items()
    assert path == "1.mp4" and why.startswith("bad_description: ") and detail in why


def test_mistakes_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"1")
    with pytest.raises(UserError, match=r"a\.tar\.gz: members of a compressed tar"):
        found(f"{tmp_path}/a.tar.gz")
    packed = tar(tmp_path / "a.tar", member("notes.pdf", b"1"))
    with pytest.raises(UserError, match="no videos in"):
        found(packed)
    with pytest.raises(UserError, match=r"--frames-fps.*unpack"):
        found(packed, frames_fps=25.0)
    packed = tar(tmp_path / "b.tar", member("1.mp4", b"1"), member("1.json", b'{"status": 1}'))
    with pytest.raises(UserError, match=r"b\.tar \(1\.mp4\): the column status.*--columns"):
        found(packed)
    assert found(packed, columns="none")["1.mp4"].columns is None
    members = [member(n, c) for n, c in (("1.mp4", b"1"), ("1.json", b'{"a": 1}'),
                                         ("2.mp4", b"1"), ("2.json", b'{"a": "x"}'))]  # fmt: skip
    with pytest.raises(UserError, match=r"the column a is of type string for 2\.mp4"):
        found(tar(tmp_path / "c.tar", *members))


def test_only_what_changed_is_another_source(tmp_path: Path) -> None:
    for number in range(2):
        tar(tmp_path / f"{number}.tar", member(f"{number}.mp4", b"1"))
    before = found(str(tmp_path), labels="none", val_fraction=0.0)
    os.utime(tmp_path / "1.tar", ns=(1, 1))
    after = found(str(tmp_path), labels="none", val_fraction=0.0)
    assert [path for path in before if before[path] != after[path]] == ["1.mp4"]


@pytest.mark.parametrize("place", ["", "memory:/"])
def test_a_tar_that_became_shorter_meanwhile(place: str, tmp_path: Path, mp4: bytes) -> None:
    packed = tar(tmp_path / "a.tar", member("1.mp4", mp4), member("2.mp4", mp4))
    with open(packed, "rb") as file:
        storage.publish_bytes(file.read(), f"{place}{packed}")
    sources = list(found(f"{place}{packed}", labels="none").values())
    size = (sources[1].position or 0) + 700
    with open(packed, "rb") as file:
        storage.publish_bytes(file.read(size), f"{place}{packed}")
    accounts, clips = cut(sources, tmp_path / "clips")
    assert [(a.status, a.reason) for a in accounts.values()] == [
        ("ok", None), ("rejected", "damaged_tar")
    ]  # fmt: skip
    end = (sources[1].position or 0) + len(mp4)
    assert accounts["2.mp4"].detail == f"it has {size} bytes now, the video ends at {end}"
    assert len(clips) == 5


def test_a_member_is_read_in_parts_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(10_000)
    packed = tar(tmp_path / "a.tar", member("1.mp4", content), member("2.mp4", b"2"))
    monkeypatch.setattr(storage, "RANGE", 4096)
    first, second = found(packed, labels="none").values()
    with tars.fetch(first) as path:
        assert Path(path).read_bytes() == content
    with tars.fetch(second) as path:
        assert Path(path).read_bytes() == b"2" and path.endswith(".mp4")
    assert not Path(path).exists()
