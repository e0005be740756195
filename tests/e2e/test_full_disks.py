"""A full disk costs time and no work: one line ends the job, the same command finishes it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cluster import tasks
from pipelines.io import room, storage
from tests.e2e.conftest import Outcome, Runner
from tests.e2e.undisturbed import JOBS, Undisturbed, names_and_sums, prepared
from tests.small_disk import resize, small_disk

KILOBYTES = {"shard_videos": 2000, "encode_latents": 60}
"""Too little for the temporary files of a task."""


def check(outcome: Outcome, *words: str) -> None:
    assert outcome.status == 2, outcome.stderr
    [line] = [line for line in outcome.stderr.splitlines() if line.startswith("error:")]
    assert all(each in line for each in words), line
    assert "Traceback" not in outcome.stderr


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 3000) as place:
        yield place


@pytest.mark.e2e
def test_a_full_root(job: Runner, undisturbed: Undisturbed, disk: Path) -> None:
    root = f"{disk}/root"
    outcome = job("shard_videos", *undisturbed.command("shard_videos", root))
    check(outcome, f"no room in {root}/clips on ", " MB wanted", "choose another --root")
    left = {file.uri.rpartition("/")[2] for file in storage.walk(root)}
    assert any(name.endswith(".json") for name in left)  # Some shards are done.
    resize(disk, 200_000)
    outcome = job("shard_videos", *undisturbed.command("shard_videos", root))
    assert outcome.status == 0, outcome.stderr
    assert names_and_sums(root) == undisturbed.expected["shard_videos"]


@pytest.mark.e2e
@pytest.mark.parametrize("name", JOBS)
def test_full_temporary_folders_of_workers(
    name: str,
    job: Runner,
    undisturbed: Undisturbed,
    worker_scratch: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "PAUSE_S", 0.1)
    root = prepared(name, str(tmp_path / "root"), undisturbed)
    with small_disk(worker_scratch, KILOBYTES[name]):
        outcome = job(name, *undisturbed.command(name, root))
        check(outcome, f"no room in {worker_scratch}", " MB wanted", "set TMPDIR")
        assert "tried again" in outcome.stdout
        resize(worker_scratch, 200_000)
        outcome = job(name, *undisturbed.command(name, root))
        assert outcome.status == 0, outcome.stderr
        assert names_and_sums(root) == undisturbed.expected[name]
        assert list(worker_scratch.glob("vqvdm-*")) == []


@pytest.mark.e2e
def test_tasks_that_found_a_full_disk_are_done_in_the_same_job(
    local_ray: pytest.MonkeyPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a graph was left in the middle."""
    monkeypatch.setattr(tasks, "PAUSE_S", 0.1)

    def work(row: dict) -> dict:
        place = tmp_path / str(row["n"])
        first = not place.exists()
        place.touch()
        if first and row["n"] < 2 * tasks.FULL_IN_A_ROW:
            with room.filling("/scratch", 1, room.SCRATCH_CURE):
                raise OSError(errno.ENOSPC, "No space left on device")
        return {"n": row["n"]}

    rows = [{"n": n} for n in range(30)]
    assert sorted(row["n"] for row in tasks.run(rows, work, num_cpus=1)) == list(range(30))
