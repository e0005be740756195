"""Lists of videos elsewhere: by URLs, URIs and paths, with whatever a table says of each."""

import json
import sys
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.io import storage
from pipelines.io.disk import FileInfo
from pipelines.io.records import Records
from pipelines.sharding import manifest
from pipelines.sharding.inputs import lists, web
from pipelines.sharding.source_table import SourceTable
from pipelines.sharding.table import Row
from tests.input_folders import fill, found
from tests.odd_videos import write
from tests.video_tars import cut
from tests.web_server import WebServer, web_server
from vqvdm.errors import UserError


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setattr(web, "PAUSE_S", 0.01)
    monkeypatch.setattr(web, "ANSWER_S", 0.5)
    first = write(tmp_path / "a.mp4", "libx264", count=20).read_bytes()
    second = write(tmp_path / "b.avi", "mpeg4", count=8).read_bytes()
    with web_server({"a.mp4": first, "b.avi": second}) as server:
        yield server


def test_urls_of_a_text_file(tmp_path: Path, server: WebServer) -> None:
    ways = ("plain", "away", "404", "403", "cut", "page", "slow")
    urls = [f"{server.address}/{way}/a.mp4" for way in ways]
    # Headers arrive; the video itself does not any more.
    server.slow_s = 0.0
    (tmp_path / "urls.txt").write_text("\n".join(["# a list", "", *urls, " "]))
    sources = found(f"{tmp_path}/urls.txt")
    assert sources.keys() == set(urls)
    assert {s.label for s in sources.values()} == {None}
    assert sources[urls[0]].etag == '"v1"' and sources[urls[2]].size is None
    server.slow_s = 2.0
    accounts, clips = cut(list(sources.values()), tmp_path / "clips")
    outcome = {path.split("/")[3]: (a.status, a.reason, a.clips) for path, a in accounts.items()}
    assert outcome == {
        "plain": ("ok", None, 5), "away": ("ok", None, 5),
        "404": ("rejected", "missing", 0), "403": ("rejected", "no_permission", 0),
        "cut": ("rejected", "incomplete", 0), "page": ("rejected", "web_page", 0),
        "slow": ("rejected", "no_answer", 0),
    }  # fmt: skip
    server.slow_s = 0.0
    again = found(f"{tmp_path}/urls.txt")
    assert sources == again
    _, same = cut([sources[urls[0]], sources[urls[1]]], tmp_path / "again")
    assert same == clips


def test_servers_that_do_not_answer_end_the_listing(
    tmp_path: Path, server: WebServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """A video whose size and version are unknown would be another one, and replace its clips."""
    ways = ("plain", "500", "404", "slow")
    urls = [f"{server.address}/{way}/a.mp4" for way in ways]
    (tmp_path / "urls.txt").write_text("\n".join(urls))
    said = rf"2 of 4 addresses do not answer, such as {urls[1]} \(HTTP 500 .*nothing was changed"
    with pytest.raises(UserError, match=said):
        found(f"{tmp_path}/urls.txt")
    said = capsys.readouterr().out
    assert [f"no answer: {url} " in said for url in urls] == [False, True, False, True]
    fill(tmp_path / "videos", "a.mp4")
    (tmp_path / "labels.csv").write_text(f"path,label\na.mp4,x\n{urls[1]},x\n")
    with pytest.raises(UserError, match="1 of 1 addresses do not answer"):
        found(f"{tmp_path}/videos", labels=f"{tmp_path}/labels.csv")


def test_what_signs_an_address_is_published_nowhere(tmp_path: Path, server: WebServer) -> None:
    """Videos are fetched by the whole address, and called by it without its query."""
    video = server.files["a.mp4"]
    for query in ("sig=hush", "id=1&sig=hush", "id=2&sig=hush"):
        server.files[f"a.mp4?{query}"] = video
    alone, two = f"{server.address}/plain/a.mp4", f"{server.address}/bare/a.mp4"
    gone = f"{server.address}/404/a.mp4?hush#hush"
    urls = [f"{alone}?sig=hush", f"{two}?id=1&sig=hush", f"{two}?id=2&sig=hush", gone]
    (tmp_path / "urls.txt").write_text("\n".join(urls))
    (tmp_path / "val.txt").write_text(f"{urls[0]}\n")
    sources = found(f"{tmp_path}/urls.txt", val_list=f"{tmp_path}/val.txt")
    assert sources[alone].id == manifest.video_id(alone) and sources[alone].split == "val"
    assert [path.startswith(f"{two}?") for path in sources] == [False, True, True, False]
    assert len({source.id for source in sources.values()}) == 4
    assert "hush" not in repr(sources)
    planned = SourceTable(sources.values()).take(np.arange(4))
    assert [source.address for source in planned] == [source.address for source in sources.values()]
    accounts, clips = cut(planned, tmp_path / "clips")
    assert [account.reason for account in accounts.values()].count(None) == 3
    assert len(clips) == 15 and not any(b"hush" in c.members["json"] for c in clips)
    writer = manifest.ManifestWriter(tmp_path / "clips")
    writer.add("train-000000", [(s, accounts[s.path]) for s in planned])
    writer.publish(f"{tmp_path}/videos.parquet")
    assert "hush" not in str(pq.read_table(tmp_path / "videos.parquet").to_pylist())
    for file in (tmp_path / "clips").iterdir():
        assert b"hush" not in file.read_bytes(), file
    # Signed anew, a video is the same one.
    server.files["a.mp4?sig=anew"] = video
    (tmp_path / "one.txt").write_text(f"{alone}?sig=anew\n")
    [again] = found(f"{tmp_path}/one.txt").values()
    assert again == replace(sources[alone], split="train") and again.address != urls[0]
    # A table of labels may write the address either way.
    for url in (urls[0], alone):
        (tmp_path / "labels.csv").write_text(f"path,label\n{url},x\n")
        labelled = found(f"{tmp_path}/urls.txt", labels=f"{tmp_path}/labels.csv", val_fraction=0.0)
        assert [(s.path, s.address) for s in labelled.values()] == [(alone, urls[0])]


@pytest.mark.parametrize(
    "address", ["https://me:hush@host/a.mp4", "http://hush@host/a.mp4", "ftp://me:hush@host/a.mp4"]
)
def test_passwords_in_addresses_are_refused(address: str, tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text(f"{address}?sig=hush\n")
    with pytest.raises(UserError, match=r"the address (https?|ftp)://host/a\.mp4 has a") as caught:
        found(f"{tmp_path}/urls.txt")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_table_of_urls(suffix: str, tmp_path: Path, server: WebServer) -> None:
    rows = [
        {"url": f"{server.address}/plain/a.mp4", "label": "cat", "split": "train",
         "caption": "a cat", "beauty": 1.5, "people": 2, "free": True},
        {"url": f"{server.address}/plain/b.avi", "label": "dog", "split": "test",
         "caption": None, "beauty": 2, "people": None, "free": False},
    ]  # fmt: skip
    file = tmp_path / f"list.{suffix}"
    if suffix == "parquet":
        pq.write_table(
            pa.Table.from_pylist([r | {"beauty": float(r["beauty"])} for r in rows]), file
        )
    elif suffix == "jsonl":
        file.write_text("\n".join(map(json.dumps, rows)))
    else:
        cells = [["" if v is None else str(v) for v in row.values()] for row in rows]
        file.write_text("\n".join(map(",".join, [list(rows[0]), *cells])))
    sources = list(found(str(file)).values())
    assert [(s.label, s.split) for s in sources] == [("cat", "train"), ("dog", "val")]
    accounts, clips = cut(sources, tmp_path / "clips")
    assert {a.status for a in accounts.values()} == {"ok"}
    said = {m["label"]: m for c in clips for m in [json.loads(c.members["json"])]}
    further = {name: said["cat"][name] for name in ("caption", "beauty", "people", "free")}
    assert further == {"caption": "a cat", "beauty": 1.5, "people": 2, "free": True}
    assert said["dog"]["caption"] is None and said["dog"]["free"] is False
    writer = manifest.ManifestWriter(tmp_path / "clips")
    writer.add("train-000000", [(s, accounts[s.path]) for s in sources])
    writer.publish(f"{tmp_path}/videos.parquet")
    table = pq.read_table(tmp_path / "videos.parquet")
    kinds = {name: table.schema.field(name).type for name in further}
    assert kinds == {"beauty": pa.float64(), "caption": pa.string(), "people": pa.int64(),
                     "free": pa.bool_()}  # fmt: skip
    assert table.select(list(further)).to_pylist()[0] == further


def test_paths_are_relative_to_the_list(tmp_path: Path) -> None:
    far = fill(tmp_path / "far", "b.mp4") + "/b.mp4"
    fill(tmp_path / "near", "cat/a.mp4", "dog/c.mp4")
    file = tmp_path / "near/list.csv"
    file.write_text(f"path\n./cat/a.mp4\n{tmp_path}/near/dog/c.mp4\nelk/gone.mp4\n")
    sources = found(str(file))
    assert {path: s.label for path, s in sources.items()} == {
        "cat/a.mp4": "cat", "dog/c.mp4": "dog", "elk/gone.mp4": "elk"
    }  # fmt: skip
    # The ids are those of the same videos in their folder.
    folder = found(f"{tmp_path}/near")
    assert [sources[path].id for path in folder] == [s.id for s in folder.values()]
    (tmp_path / "near/more.txt").write_text(f"cat/a.mp4\n{far}\n")
    assert {s.label for s in found(f"{tmp_path}/near/more.txt", labels="none").values()} == {None}
    with pytest.raises(UserError, match=r"far/b\.mp4 has no label while others have"):
        found(f"{tmp_path}/near/more.txt")


def test_many_files_of_one_folder_are_asked_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but those that no listing tells, and those of folders with few."""
    monkeypatch.setattr(lists, "MANY", 3)
    monkeypatch.setattr(lists, "CHUNK", 8)
    many = [f"s3://b/many/{n}.mp4" for n in range(7)]
    few = ["s3://b/few/0.mp4", "s3://b/few/1.mp4"]
    files = {uri: FileInfo(uri, 9, f"etag {uri}") for uri in [*many[:-1], *few]}
    asked, together = list[str](), list[str]()

    def info(uri: str) -> FileInfo | None:
        asked.append(uri)
        return files.get(uri)

    def infos_below(folder: str, names: Collection[str]) -> dict[str, FileInfo]:
        uris = [f"{folder}/{name}" for name in names]
        together.extend(uris)
        return {uri: files[uri] for uri in uris if uri in files}

    monkeypatch.setattr(storage, "info", info)
    monkeypatch.setattr(storage, "infos_below", infos_below)
    rows = [Row(uri) for uri in (*many[:4], few[0], *many[4:], few[1])]
    found = list(lists.look_up(Records(Row, rows), "/folder"))
    assert [video.path for video in found] == [row.path for row in rows]
    assert [video.file for video in found] == [
        files.get(row.path, FileInfo(row.path, 0)) for row in rows
    ]
    assert sorted(together) == many and sorted(asked) == sorted([*few, many[-1]])


def test_a_table_in_parts(tmp_path: Path) -> None:
    fill(tmp_path, "x/a.mp4", "x/more/b.mp4", "c.mp4")
    for name, path in (("x/0.parquet", "a.mp4"), ("x/1.parquet", "more/b.mp4")):
        pq.write_table(pa.table({"uri": [path], "label": [name[2]]}), tmp_path / name)
    pq.write_table(pa.table({"uri": [f"{tmp_path}/c.mp4"], "label": ["2"]}), tmp_path / "2.parquet")
    parts = found(f"{tmp_path}/x/*.parquet")
    assert {path: s.label for path, s in parts.items()} == {"a.mp4": "0", "more/b.mp4": "1"}
    assert all(source.mtime_ns for source in parts.values())
    (tmp_path / "parts").mkdir()
    for name in ("x/0.parquet", "2.parquet"):
        (tmp_path / name).rename(tmp_path / "parts" / Path(name).name)
    folder = found(f"{tmp_path}/parts")
    assert {path: bool(s.mtime_ns) for path, s in folder.items()} == {
        "a.mp4": False, f"{tmp_path}/c.mp4": True
    }  # fmt: skip


def test_halves_of_characters_in_json_lines(tmp_path: Path) -> None:
    rows = [{"path": "\ud83d.mp4", "label": "\ude00", "\udcff": "\ud83d"}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    [source] = found(f"{tmp_path}/list.jsonl").values()
    assert (source.path, source.label) == ("\\ud83d.mp4", "\\ude00")
    assert json.loads(source.columns or "") == {"\\udcff": "\\ud83d"}


def test_labels_of_another_table(tmp_path: Path) -> None:
    fill(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "list.csv").write_text("path,caption,mood\na.mp4,A,glad\nb.mp4,B,\n")
    (tmp_path / "labels.csv").write_text("path,label,mood\na.mp4,x,sad\n")
    labels = f"{tmp_path}/labels.csv"
    [source] = found(f"{tmp_path}/list.csv", labels=labels, val_fraction=0.0).values()
    assert (source.label, source.columns) == ("x", '{"caption": "A", "mood": "sad"}')
    [source] = found(
        f"{tmp_path}/list.csv", labels=labels, val_fraction=0.0, columns="caption, caption"
    ).values()
    assert source.columns == '{"caption": "A"}'


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("mood,captoin", "column captoin: did you mean 'caption'. There: caption, mood$"),
        ("caption,", "column : There: caption, mood$"),
        ("elk", "column elk: There: caption, mood$"),
    ],
)
def test_a_column_that_is_nowhere_is_refused(asked: str, message: str, tmp_path: Path) -> None:
    fill(tmp_path, "a.mp4", "b.mp4")
    rows = ['{"path": "a.mp4", "caption": "a"}', '{"path": "b.mp4", "mood": "glad"}']
    (tmp_path / "list.jsonl").write_text("\n".join(rows))
    assert len(found(f"{tmp_path}/list.jsonl", columns="mood,caption")) == 2
    with pytest.raises(UserError, match=f"--columns {asked}: .* {message}"):
        found(f"{tmp_path}/list.jsonl", columns=asked)
    (tmp_path / "list.jsonl").unlink()
    with pytest.raises(UserError, match=r"further column mood: There are none$"):
        found(str(tmp_path), columns="mood", labels="none")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.txt", "# nothing\n", "names no videos"),
        ("list.csv", "file,label\na.mp4,x\n", "needs a column path, uri or url"),
        ("list.csv", "url\n", "holds no rows"),
        ("list.csv", "url,label\na.mp4,x\n,y\n", "row 2: path is empty"),
        ("list.csv", "url,status\na.mp4,ok\n", "the column status has a name that"),
        ("list.csv", "url,mood,mood\na.mp4,a,b\n", "two columns named mood"),
        ("list.csv", "url\na.mp4\na.mp4\n", "lists a.mp4 twice"),
        ("list.jsonl", '{"url": "a.mp4"}\nnull', "line 2 is no object"),
        ("list.parquet", "url", "no valid parquet"),
        ("gone.txt", "", "no such file"),
        ("gone.csv", "", "no such file"),
        ("gone.parquet", "", "no such file"),
    ],
)
def test_a_wrong_list_is_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    if text:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        found(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


def test_a_server_is_no_folder() -> None:
    with pytest.raises(UserError, match="servers do not list their files"):
        found("https://127.0.0.1/videos")


@pytest.mark.parametrize(
    ("scheme", "package", "extra"),
    [("gs", "gcsfs", "gs"), ("az", "adlfs", "az"), ("abfs", "adlfs", "az")],
)
def test_a_missing_package_is_named(
    scheme: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"package for {scheme}:// .*pip install .*\[{extra}\]"):
        found(f"{scheme}://bucket/videos")


def test_a_name_that_begins_as_a_comment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path, "#shorts cat.mp4", "a.mp4")
    lines = ["# my downloads", "#shorts cat.mp4", "#a.mp4", "a.mp4", "# https://host/b.mp4"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    assert found(f"{tmp_path}/list.txt", labels="none").keys() == {"#shorts cat.mp4", "a.mp4"}
    assert f"3 lines of {tmp_path}/list.txt are skipped as comments" in capsys.readouterr().out
    (tmp_path / "list.txt").write_text("# nothing\n")
    with pytest.raises(UserError, match="names no videos"):
        found(f"{tmp_path}/list.txt")
