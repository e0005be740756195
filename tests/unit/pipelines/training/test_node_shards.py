"""Workers of one node download and hash each shard once; nobody trusts what is half-written."""

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipelines.io import storage
from pipelines.io.arrays import Arrays
from pipelines.io.markers import Marker
from pipelines.io.scratch import PREFIX
from pipelines.training.loader import Loader
from pipelines.training.node_shards import NodeShards
from tests.small_shards import KEYS, number, write_shards
from vqvdm.errors import UserError

WORKERS = 8
KILLED = """
import os, sys, time
from pipelines.io import shards
from pipelines.io.markers import read_marker
from pipelines.training.node_shards import NodeShards
mine = NodeShards(sys.argv[1], "job", "shared")
shards.verify_file = lambda *_: (print("hashing", flush=True), time.sleep(60))
mine.take(read_marker(sys.argv[1], "train-000000"))
"""


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What is downloaded and hashed."""
    found: dict[str, list[str]] = {"downloaded": [], "hashed": []}
    download, whole = MemoryFileSystem.get_file, storage.sha256

    def get_file(self: Any, path: str, *args: Any, **options: Any) -> Any:
        found["downloaded"].append(path.rsplit("/", 1)[1])
        return download(self, path, *args, **options)

    def sha256(uri: str) -> str:
        found["hashed"].append(uri)
        return whole(uri)

    monkeypatch.setattr(MemoryFileSystem, "get_file", get_file)
    monkeypatch.setattr(storage, "sha256", sha256)
    return found


def remote() -> tuple[str, list[Marker]]:
    folder = f"memory://{uuid.uuid4().hex}/clips"
    return folder, write_shards(folder)


def together(action: Callable[[int], object]) -> None:
    """Each worker's part of a training, all at the same time."""
    errors = []

    def run(rank: int) -> None:
        try:
            action(rank)
        except BaseException as error:
            errors.append(error)

    team = [threading.Thread(target=run, args=(rank,)) for rank in range(WORKERS)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join(60)
    assert errors == []


@pytest.mark.parametrize("where", ["remote", "local"])
@pytest.mark.parametrize("memory_gb", [0.0, 1.0], ids=["cached", "in memory"])
def test_workers_of_a_node_download_and_hash_every_shard_once(
    where: str, memory_gb: float, work: dict[str, list[str]], tmp_path: Path
) -> None:
    folder = str(tmp_path / "clips") if where == "local" else remote()[0]
    markers = write_shards(folder)
    work["hashed"].clear()
    shares: dict[int, list[str]] = {}

    def as_array(members: dict[str, bytes]) -> Arrays:
        return {name: tensor.numpy() for name, tensor in number(members).items()}

    loaders = [
        Loader(folder, markers, "job", as_array, memory_gb=memory_gb, name="shared")
        for _ in range(WORKERS)
    ]

    def train(rank: int) -> None:
        batches = itertools.islice(loaders[rank].train(0, 0, 2 * WORKERS, rank, WORKERS), 5)
        found = [(batch.keys, batch.tensors["number"].tolist()) for batch in batches]
        assert all(numbers == [KEYS.index(key) for key in keys] for keys, numbers in found)
        shares[rank] = [key for keys, _ in found for key in keys]

    together(train)
    names = [f"{marker.name}.tar" for marker in markers]
    assert sorted(work["downloaded"]) == (names if where == "remote" else [])
    assert len(work["hashed"]) == len(markers)
    alone = Loader(folder, markers, "job", as_array)
    for step, batch in enumerate(itertools.islice(alone.train(0, 0, 2 * WORKERS), 5)):
        given = [shares[rank][2 * step : 2 * step + 2] for rank in range(WORKERS)]
        assert batch.keys == list(itertools.chain(*given))
    for loader in loaders:
        loader.close()


def test_a_copy_stays_as_long_as_a_worker_holds_it(work: dict[str, list[str]]) -> None:
    folder, markers = remote()
    first, second = NodeShards(folder, "job", "shared"), NodeShards(folder, "job", "shared")
    mine, others = first.take(markers[0]), second.take(markers[0])
    first.drop(markers[0])
    assert others["a0"] == {"txt": b"0"}
    with pytest.raises(FileNotFoundError):
        mine["a0"]
    second.drop(markers[0])
    assert list(first.folder.rglob("*.tar")) == []
    assert first.take(markers[0])["a1"] == {"txt": b"1"}
    assert work["downloaded"] == ["train-000000.tar"] * 2


def test_the_last_worker_leaves_nothing(own_place: Path) -> None:
    folder, markers = remote()
    loaders = [Loader(folder, markers, "job", number, name="shared") for _ in range(2)]
    for loader in loaders:
        next(loader.train(0, 0, 4))
    assert [path.name for path in own_place.glob(f"{PREFIX}*")] == [f"{PREFIX}shared"]
    loaders[0].close()
    assert list(own_place.glob(f"{PREFIX}*"))
    loaders[1].close()
    assert list(own_place.glob(f"{PREFIX}*")) == []


def test_a_worker_that_is_killed_while_it_verifies_leaves_nothing_to_trust(
    work: dict[str, list[str]], tmp_path: Path
) -> None:
    folder = str(tmp_path / "clips")
    markers = write_shards(folder)
    mine = NodeShards(folder, "job", "shared")
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, folder], stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout and worker.stdout.readline() == "hashing\n"
        worker.send_signal(signal.SIGKILL)
    Path(folder, "train-000000.tar").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"train-000000\.tar does not match"):
        mine.take(markers[0])


def test_a_download_that_does_not_match_is_no_copy() -> None:
    folder, markers = remote()
    storage.publish_bytes(b"damaged", f"{folder}/train-000000.tar")
    mine = NodeShards(folder, "job", "shared")
    for _ in range(2):
        with pytest.raises(UserError, match=r"train-000000\.tar does not match"):
            mine.take(markers[0])
    assert list(mine.folder.rglob("*.tar")) == []


def test_a_local_shard_that_changes_is_hashed_again(tmp_path: Path) -> None:
    folder = str(tmp_path / "clips")
    markers = write_shards(folder)
    mine, other = NodeShards(folder, "job", "shared"), NodeShards(folder, "job", "shared")
    mine.take(markers[0])
    content = bytearray(Path(folder, "train-000000.tar").read_bytes())
    content[600] ^= 1
    Path(folder, "train-000000.tar").write_bytes(content)
    os.utime(Path(folder, "train-000000.tar"), (1, 1))
    with pytest.raises(UserError, match=r"train-000000\.tar does not match"):
        other.take(markers[0])
