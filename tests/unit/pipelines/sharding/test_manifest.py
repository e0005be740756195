"""The account of videos: it is read as it was written, and totals add up."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.io.markers import Marker
from pipelines.sharding import manifest
from pipelines.sharding.manifest import Account, Source
from vqvdm.errors import UserError


def source(index: int, split: str = "train") -> Source:
    path = f"class/{index:03d}.mp4"
    return Source(path, f"s3://bucket/{path}", index, str(index), None, "class", split)


def test_the_manifest_comes_back(tmp_path: Path) -> None:
    ok = Account("ok", None, 3, 2.5, 16.0, 64, 48, "h264")
    accounts = [(source(1, "val"), ok), (source(2), Account("rejected", "unreadable", 0))]
    manifest_writer = manifest.ManifestWriter(tmp_path)
    manifest_writer.add("val-000000", accounts)
    manifest_writer.add("train-000000", [(source(3), ok)])
    manifest_writer.publish(f"{tmp_path}/root/videos.parquet")
    table = manifest.read(f"{tmp_path}/root/videos.parquet")
    assert table.schema.equals(manifest.SCHEMA)
    other, first, second = table.to_pylist()
    assert other["id"] == source(3).id
    assert (first["uri"], first["split"], first["fps"]) == (source(1).uri, "val", 16.0)
    assert (second["id"], second["etag"], second["reason"]) == (source(2).id, "2", "unreadable")
    assert manifest.from_marker(manifest.to_marker(accounts)) == accounts


def test_a_name_that_is_not_utf8_is_escaped(tmp_path: Path) -> None:
    odd = replace(source(1), path="a/\udcff.mp4", uri="/a/\udcff.mp4")
    manifest_writer = manifest.ManifestWriter(tmp_path)
    manifest_writer.add("train-000000", [(odd, Account("ok", None, 1))])
    manifest_writer.publish(f"{tmp_path}/root/videos.parquet")
    [row] = manifest.read(f"{tmp_path}/root/videos.parquet").to_pylist()
    assert row["uri"] == r"/a/\udcff.mp4"


def marker(clips: int) -> Marker:
    return Marker("train-000000", "", 0, [str(n) for n in range(clips)], [], "", "")


@pytest.mark.parametrize(
    ("accounts", "clips"),
    [
        ([Account("ok", None, 3), Account("ok", None, 2)], 6),
        ([Account("ok", "damaged", 3), Account("ok", None, 3)], 6),
        ([Account("partial", None, 3), Account("ok", None, 3)], 6),
        ([Account("partial", "damaged", 0), Account("ok", None, 6)], 6),
        ([Account("rejected", "empty", 1), Account("ok", None, 5)], 6),
    ],
)
def test_totals_reconcile(accounts: list[Account], clips: int) -> None:
    sources = [source(1), source(2)]
    good = [Account("ok", None, 4), Account("partial", "damaged", 2)]
    manifest.reconcile(list(zip(sources, good, strict=True)), marker(6))
    with pytest.raises(AssertionError):
        manifest.reconcile(list(zip(sources, accounts, strict=True)), marker(clips))


def test_accounts_are_those_of_the_videos_as_they_are_listed_now() -> None:
    parts = [replace(source(1), start_s=n / 3, end_s=(n + 1) / 3, fps=12.5) for n in range(3)]
    videos = [*parts, source(2), source(3)]
    accounts = [(video, Account("ok", None, n + 1)) for n, video in enumerate(videos)]
    details = manifest.to_marker(accounts)
    moved = [replace(s, uri="/mnt/a.mp4", etag="9", label="other", split="val") for s in videos]
    now = manifest.at_present(details, moved[::-1])
    assert now == [(video, account) for video, (_, account) in zip(moved, accounts, strict=True)]
    with pytest.raises(AssertionError):  # One that the marker lacks.
        manifest.at_present(details, [*moved, source(4)])
    for fewer in (moved[1:], [replace(moved[0], end_s=0.5), *moved[1:]]):
        with pytest.raises(KeyError):
            manifest.at_present(details, fewer)


def test_captioned_videos_are_those_that_gave_clips_and_have_a_text(tmp_path: Path) -> None:
    uri = f"{tmp_path}/root/videos.parquet"
    with pytest.raises(UserError, match=r"videos\.parquet is missing: run jobs/shard_videos\.py"):
        manifest.captioned(uri, "caption")
    texts, clips = ["a cat", "", None, "a dog", "  "], [2, 2, 2, 0, 2]
    accounts = [
        (
            replace(
                source(number),
                columns=json.dumps({"caption": text, "mood": "glad", "views": 3, "none": None}),
            ),
            Account("ok" if count else "rejected", None if count else "empty", count),
        )
        for number, (text, count) in enumerate(zip(texts, clips, strict=True))
    ]
    manifest_writer = manifest.ManifestWriter(tmp_path)
    manifest_writer.add("train-000000", accounts)
    manifest_writer.publish(uri)
    assert manifest.captioned(uri, "caption") == 1
    assert manifest.captioned(uri, "mood") == 4
    assert manifest.captioned(uri, "none") == 0
    assert [manifest.has_texts(uri, name) for name in ("caption", "views", "captoin")] == [
        True, False, False
    ]  # fmt: skip
    ids = [video.id for video, _ in accounts]
    assert manifest.texts_of(uri, "caption", ids[1:]) == {ids[3]: "a dog"}
    assert manifest.texts_of(uri, "caption", ids) == {ids[0]: "a cat", ids[3]: "a dog"}
    assert manifest.texts_of(uri, "caption", []) == {}
    with pytest.raises(UserError, match="'views' holds int64: a caption is a text; pass the --cap"):
        manifest.captioned(uri, "views")
    with pytest.raises(UserError, match=r"column 'captoin': did you mean 'caption'\? There: cap"):
        manifest.captioned(uri, "captoin")
