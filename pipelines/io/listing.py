"""Listing object stores: S3 by pages, several folders at a time.

A page of S3 holds 1,000 objects and takes a tenth of a second, most of which is waiting; and each
page has to be there before the next one can be asked for. Where there are folders, the listing can
begin at any of them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice, pairwise, takewhile
from operator import attrgetter
from typing import Any, NamedTuple

from pipelines.io.object_store import is_s3
from pipelines.io.readers import READERS

LISTERS = 8
"""Pages on the way at a time; more would wait for the one thread that reads them."""
PARTS = 64
"""Parts of a listing, each of some folders: far more than listers, as folders differ in size."""
FOLDER_PAGES = 16
"""Pages of names of folders that are looked at; what follows the last of them is one part."""

Named = tuple[str, dict[str, Any]]
"""The name of an object below a prefix, and what the listing says of it."""


def listed(fs: Any, path: str) -> Iterator[Named]:
    """Every object below a prefix, in any order.

    S3 is listed by pages, of which a few are in memory; other stores give their listing as a
    whole. Names that end in a slash are left out: such objects stand for folders, and are made by
    consoles.
    """
    found: Iterator[Named]
    if is_s3(fs):
        found = chain.from_iterable(_all_pages(fs, path))
    else:
        base, infos = path.rstrip("/"), fs.find(path, detail=True)
        files = ((name, info) for name, info in infos.items() if info["type"] == "file")
        found = ((name[len(base) :].lstrip("/"), info) for name, info in files)
    yield from ((name, info) for name, info in found if name and not name.endswith("/"))


def listed_among(fs: Any, path: str, names: Collection[str]) -> Iterator[Named]:
    """As `listed`, the objects of these names right below a prefix of S3, as far as the pages take
    no longer than asking for each name would: what else lies there may be any number."""
    wanted, last = set(names), max(names)
    # Whatever lies between the beginning of a name and the name comes too.
    begin = {"Delimiter": "/", "after": min(names)[:-1]}
    for page in islice(_pages(fs, path, **begin), math.ceil(len(names) / READERS)):
        yield from (each for each in page.objects if each[0] in wanted)
        if page.objects and page.objects[-1][0] >= last:
            return


def _all_pages(fs: Any, path: str) -> Iterator[list[Named]]:
    """All objects below a prefix of S3, by pages; the first one alone, as most have no other."""
    pages = _pages(fs, path)
    first = next(pages)
    yield first.objects
    if not first.more:
        return
    names = [name for name, _ in first.objects]
    folders = _folders_after(fs, path, names[-1]) if names and _is_sorted(names) else []
    if not folders:
        yield from (page.objects for page in pages)
        return
    bounds = [names[-1], *folders[:: math.ceil(len(folders) / PARTS)], ""]
    parts = iter([_part(fs, path, after, until) for after, until in pairwise(bounds)])
    waiting = deque[tuple[Iterator[list[Named]], Future[list[Named] | None]]]()
    with ThreadPoolExecutor(LISTERS) as pool:

        def go_on(part: Iterator[list[Named]]) -> None:
            waiting.append((part, pool.submit(next, part, None)))

        for part in islice(parts, LISTERS):
            go_on(part)
        # In turns: a part is with one thread at a time, and the order is the same each time.
        while waiting:
            part, page = waiting.popleft()
            if objects := page.result():
                yield objects
                go_on(part)
            else:
                for following in islice(parts, 1):
                    go_on(following)


def _part(fs: Any, path: str, after: str, until: str) -> Iterator[list[Named]]:
    """The objects, by pages, whose names come after the one and before the other, if that is given.
    What lies in a folder comes after its name, which ends in a slash."""
    for page in _pages(fs, path, after):
        if found := [each for each in page.objects if _lies_between(each[0], after, until)]:
            yield found
        if until and page.objects and page.objects[-1][0] >= until:
            return


def _lies_between(name: str, after: str, until: str) -> bool:
    return after < name and (not until or name < until)


def _folders_after(fs: Any, path: str, name: str) -> list[str]:
    """Folders that come after an object: those beside it, and beside each folder that it lies in.

    Empty where the store does not list them in the order of their names.
    """
    found: list[str] = []
    parents = name.split("/")[:-1]
    for depth in range(len(parents) + 1):
        parent = "".join(f"{each}/" for each in parents[:depth])
        pages = islice(_pages(fs, path, name, parent, Delimiter="/"), FOLDER_PAGES)
        beside = [each for page in takewhile(attrgetter("folders"), pages) for each in page.folders]
        if not _is_sorted(beside):
            return []
        found += (folder for folder in beside if folder > name)
    return sorted(found)


def _is_sorted(names: list[str]) -> bool:
    """Whether names come in the order of their characters: S3's directory buckets have none."""
    return all(one < other for one, other in pairwise(names))


class _Page(NamedTuple):
    objects: list[Named]
    folders: list[str]
    """Those that a delimiter leaves closed, with their slashes."""
    more: bool
    """Whether it is not the last one."""


def _pages(
    fs: Any, path: str, after: str = "", parent: str = "", **options: str
) -> Iterator[_Page]:
    """Each page of a listing of S3, or of a folder in it; all names are those below the prefix."""
    bucket, key, _ = fs.split_path(path)
    prefix = f"{key.rstrip('/')}/" if key else ""
    if after:
        options["StartAfter"] = prefix + after
    more = True
    while more:
        answer = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix + parent, **options)
        more = bool(answer.get("IsTruncated"))
        options["ContinuationToken"] = answer.get("NextContinuationToken", "")
        found, closed = answer.get("Contents", ()), answer.get("CommonPrefixes", ())
        yield _Page(
            [(info["Key"][len(prefix) :], info | {"size": info["Size"]}) for info in found],
            [each["Prefix"][len(prefix) :] for each in closed],
            more,
        )
