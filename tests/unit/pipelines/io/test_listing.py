"""Listings hold every object once, however many pages are on the way at a time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable
from typing import Any

import pytest

from pipelines.io import listing


class _Pages:
    """Stands for S3: three entries to a page, in the order of their names."""

    protocol = ("s3", "s3a")
    keys: tuple[str, ...] = ("house/a", *(f"house/deep/{n}" for n in range(6)), "houses/b")

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.lock = threading.Lock()
        self.at_once = self.most_at_once = 0

    def split_path(self, path: str) -> tuple[str, str, None]:
        bucket, _, key = path.partition("/")
        return bucket, key, None

    def call_s3(self, method: str, Bucket: str, Prefix: str, **options: str) -> dict[str, Any]:
        assert (method, Bucket) == ("list_objects_v2", "bucket")
        with self.lock:
            self.asked.append(options.get("ContinuationToken", "0"))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(0.002)
        with self.lock:
            self.at_once -= 1
        return self.page(Prefix, **options)

    def page(
        self, prefix: str, StartAfter: str = "", Delimiter: str = "", ContinuationToken: str = "0"
    ) -> dict[str, Any]:
        entries = dict[str, str]()
        for key in self.keys:
            if key.startswith(prefix) and key > StartAfter:
                name, slash, _ = key[len(prefix) :].partition("/")
                if Delimiter and slash:
                    entries[f"{prefix}{name}/"] = "folder"
                else:
                    entries[key] = "object"
        end = int(ContinuationToken) + 3
        shown = list(entries.items())[end - 3 : end]
        more = {"NextContinuationToken": str(end)} if end < len(entries) else {}
        return {
            "Contents": [{"Key": key, "Size": 7} for key, kind in shown if kind == "object"],
            "CommonPrefixes": [{"Prefix": key} for key, kind in shown if kind == "folder"],
            "IsTruncated": bool(more),
        } | more


def test_s3_is_listed_a_page_at_a_time() -> None:
    fs = _Pages()
    found = listing.listed(fs, "bucket/house/")
    assert [next(found)[0] for _ in range(3)] == ["a", "deep/0", "deep/1"]
    assert fs.asked == ["0"]  # What comes after is not asked for before it is wanted.
    assert [(name, info["size"]) for name, info in found] == [(f"deep/{n}", 7) for n in range(2, 6)]
    # A look for folders beside `deep` and in it finds none, so that the rest goes page by page.
    assert fs.asked == ["0", "0", "0", "3", "6"]
    assert len(list(listing.listed(fs, "bucket"))) == 8
    assert list(listing.listed(fs, "bucket/none")) == []


def test_what_stands_for_a_folder_is_no_object() -> None:
    """Consoles make such objects, of no bytes and with a slash at the end."""
    fs = _Pages()
    fs.keys = ("house/", "house//a", "house/deep/", "house/deep/0")
    assert [name for name, _ in listing.listed(fs, "bucket/house")] == ["/a", "deep/0"]
    assert [name for name, _ in listing.listed(fs, "bucket")] == ["house//a", "house/deep/0"]


def test_objects_of_many_names_are_found_by_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = _Pages()
    monkeypatch.setattr(listing, "READERS", 1)
    fs.keys = ("house/a", "house/b/inner", *(f"house/v{n:02d}" for n in range(20)))

    def found(*names: str) -> list[str]:
        fs.asked.clear()
        return [name for name, _ in listing.listed_among(fs, "bucket/house", names)]

    assert found("v03", "v05", "v04", "v99") == ["v03", "v04", "v05"]
    assert fs.asked == ["0", "3", "6", "9"]  # From `v0` on, a page for each name at most.
    assert found("v00", "v01", "v02") == ["v00", "v01", "v02"] and fs.asked == ["0"]
    assert found("a", "b") == ["a"] and found("x", "y") == []
    # As many pages as names would not reach the second.
    assert found("v00", "v19") == ["v00"] and fs.asked == ["0", "3"]


def names(found: Iterable[tuple[str, Any]]) -> list[str]:
    return [name for name, _ in found]


LAYOUTS = {
    "classes": [f"v/{label}/{n}" for label in "abcdefghij" for n in range(7)],
    "splits": [
        f"v/{split}/{label}/{n}" for split in ("train", "val") for label in "abc" for n in range(9)
    ],
    "one large folder": [
        f"v/{label}/{n:03}" for label in "abc" for n in range(80 if label == "b" else 1)
    ],
    "files between folders": [f"v/{n:02}{'/x' * (n % 3)}" for n in range(60)],
    "names of which one begins the other": [
        f"v/{a}{b}/{n}" for a in ("a", "a!", "a0", "é") for b in ("", "-", "~") for n in range(4)
    ],
    "folders of one file": [f"v/{n:03}/x" for n in range(200)],
    "no folders": [f"v/{n:03}" for n in range(40)],
    "markers of folders": [f"v/{label}/{n}" for label in "abcd" for n in ("", *range(5))],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folders_are_listed_at_the_same_time(layout: str) -> None:
    fs = _Pages()
    fs.keys = tuple(sorted([*LAYOUTS[layout], "u/before", "w/after"]))
    found = names(listing.listed(fs, "bucket/v"))
    assert sorted(found) == sorted(
        key.removeprefix("v/") for key in LAYOUTS[layout] if not key.endswith("/")
    )
    assert found == names(listing.listed(fs, "bucket/v"))  # In the same order each time.
    assert fs.most_at_once <= listing.LISTERS
    assert (fs.most_at_once > 1) == (layout != "no folders")
    assert sorted(names(listing.listed(fs, "bucket"))) == [
        key for key in fs.keys if not key.endswith("/")
    ]


def test_folders_add_few_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = _Pages()
    monkeypatch.setattr(listing, "PARTS", 5)
    monkeypatch.setattr(listing, "FOLDER_PAGES", 4)
    fs.keys = tuple(f"v/{n:03}/x" for n in range(300))
    assert len(names(listing.listed(fs, "bucket/v"))) == 300
    # 100 pages, a look beside and into the first folder, and at most one more for each part.
    assert 100 <= len(fs.asked) <= 100 + 4 + 1 + 6


class _Unordered(_Pages):
    """A directory bucket: its listing has an order of its own, and begins anywhere at the start."""

    def page(self, prefix: str, StartAfter: str = "", **options: str) -> dict[str, Any]:
        return super().page(prefix, "", **options)


def test_a_store_without_an_order_is_listed_page_by_page() -> None:
    fs = _Unordered()
    keys = [f"v/{label}/{n}" for label in "abcdef" for n in range(7)]
    random.Random(0).shuffle(keys)
    fs.keys = tuple(keys)
    found = names(listing.listed(fs, "bucket/v"))
    assert sorted(found) == sorted(key.removeprefix("v/") for key in keys)
    assert fs.most_at_once == 1 and len(fs.asked) == 14


def test_a_page_that_does_not_come_ends_a_listing() -> None:
    class Broken(_Pages):
        keys = tuple(f"v/{label}/{n}" for label in "abcdefghij" for n in range(7))

        def page(self, prefix: str, **options: str) -> dict[str, Any]:
            if options.get("StartAfter", "").startswith("v/f"):
                raise PermissionError("AccessDenied")
            return super().page(prefix, **options)

    found = listing.listed(Broken(), "bucket/v")
    with pytest.raises(PermissionError, match="AccessDenied"):
        list(found)


def test_a_listing_that_is_not_read_to_its_end_asks_for_no_more() -> None:
    fs = _Pages()
    fs.keys = tuple(f"v/{label}/{n}" for label in "abcdefghij" for n in range(50))
    found = listing.listed(fs, "bucket/v")
    for _ in range(10):
        next(found)
    found.close()
    asked = len(fs.asked)
    assert asked <= 1 + 2 + 2 * listing.LISTERS
    time.sleep(0.05)
    assert len(fs.asked) == asked
