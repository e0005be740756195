"""Objects of an S3 server, read whole and in part."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.io import object_store, storage
from pipelines.sharding import marker_cache
from tests.e2e.conftest import KEY, SECRET, S3Server
from tests.unit.pipelines.io.test_storage import ODD_NAMES, check_literal
from tests.unit.pipelines.sharding.test_marker_cache import Root


@pytest.fixture
def connected(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ACCESS_KEY_ID", KEY), ("SECRET_ACCESS_KEY", SECRET)):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)


@pytest.mark.e2e
@pytest.mark.parametrize("megabytes", [1, 5, 60])
def test_a_part_of_an_object_is_read_as_well_as_all_of_it(connected: None, megabytes: int):
    """This server sends the checksum of the whole with every part, and 60 MB go in parts."""
    content = np.random.default_rng(megabytes).bytes(megabytes << 20)
    uri = f"s3://bucket/parts/{megabytes}.tar"
    storage.publish_bytes(content, uri)
    assert storage.read_head(uri, 4 << 20) == content[: 4 << 20]
    assert storage.read_bytes(uri) == content
    with storage.local_copy(uri) as path:
        assert Path(path).read_bytes() == content


TRANSFER = """
import sys
from pathlib import Path
from pipelines.io import storage
file, uri = sys.argv[1:]
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
storage.publish_bytes(b"x", f"{uri}-first")
storage.read_bytes(f"{uri}-first")
before = peak()
storage.publish_file(file, uri)
up = peak() - before
with storage.local_copy(uri) as copy:
    assert Path(copy).stat().st_size == Path(file).stat().st_size
print(up, peak() - before)
"""


@pytest.mark.e2e
def test_a_transfer_takes_the_memory_of_some_parts_however_large_the_object(
    connected: None, tmp_path: Path
) -> None:
    """Once as much as the object, and more: 602 MiB for 300."""
    file, root = tmp_path / "shard.tar", Path(__file__).parents[2]
    with open(file, "wb") as out:
        for _ in range(300):
            out.write(os.urandom(2**20))
    command = [sys.executable, "-c", TRANSFER, str(file), "s3://bucket/large.tar"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    storage.delete("s3://bucket/large.tar")
    up_mib, both_mib = map(float, done.stdout.split())
    print(f"{up_mib:.0f} MiB to send 300, {both_mib:.0f} MiB to fetch them too")
    assert up_mib < 350 and both_mib < 450


@pytest.mark.e2e
def test_shards_in_a_bucket_are_known_by_a_listing(
    connected: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Root(tmp_path, monkeypatch)
    root.config = replace(root.config, root="s3://bucket/known")
    root.cut()
    shards, cache = sorted(root.made), f"s3://bucket/known/clips/{marker_cache.NAME}"
    content = storage.read_bytes(cache)
    # Stores may tell times in seconds.
    time.sleep(1.1)
    root.cut()
    root.cut()
    assert root.read == root.asked == [] and storage.read_bytes(cache) == content
    root.add("a/new.mp4")
    root.cut()
    assert 1 <= len(root.made) <= 3 and set(root.read) <= set(root.made)
    time.sleep(1.1)
    root.cut()
    marker = f"s3://bucket/known/clips/{shards[0]}.json"
    storage.publish_bytes(storage.read_bytes(marker), marker)
    root.cut()
    assert root.read == [shards[0]] and root.asked == []
    storage.delete(marker)
    root.cut()
    assert root.read == [] and root.made == [shards[0]]


@pytest.mark.e2e
@pytest.mark.parametrize("odd", ODD_NAMES)
def test_names_of_objects_are_literal(connected: None, odd: str):
    check_literal(f"s3://bucket/odd-names-{list(ODD_NAMES).index(odd)}", odd, ODD_NAMES[odd])


@pytest.mark.e2e
def test_folders_of_many_pages_are_listed_whole(
    connected: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    names = [f"train/{label}/{n}.mp4" for label in ("a b", "a", "ä", "z") for n in range(700)]
    for name in names:
        (tmp_path / "bucket" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bucket" / name).write_bytes(b"x")
    server = S3Server(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    server.start()
    try:
        found = [file.uri for file in storage.walk("s3://bucket")]
    finally:
        server.kill()
    assert found == sorted(f"s3://bucket/{name}" for name in names)


@pytest.mark.e2e
def test_many_objects_are_deleted_by_few_requests(connected: None, monkeypatch):
    monkeypatch.setattr(object_store, "BULK", 5)
    for number in range(12):
        storage.publish_bytes(b"x", f"s3://bucket/many/{number % 3}/{number}")
    storage.publish_bytes(b"x", "s3://bucket/many-others")
    storage.delete("s3://bucket/many")
    assert storage.walk("s3://bucket/many") == []
    assert storage.exists("s3://bucket/many-others")
