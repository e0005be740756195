"""A kill loses nothing: workers, drivers and the S3 server die at random moments.

After the same command has run again, the bytes are those of an undisturbed run and nothing else
lies there. `make test` runs one kill of each kind, `make chaos` twenty.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.io import storage
from tests.e2e.conftest import Outcome, S3Server, run_job
from tests.e2e.undisturbed import Undisturbed, names_and_sums, prepared

JOBS = ("shard_videos", "encode_latents")
PLACES = {"shard_videos": "clips", "encode_latents": "latents/base"}
TASKS = {"shard_videos": "make_shard", "encode_latents": "EncodeShard"}
"""What Ray calls the processes of the workers."""
LIMIT_S = 120


def check(job: str, root: str, made: Undisturbed) -> None:
    """Running the same command again gives what an undisturbed run gives, and nothing else.

    One worker continues what two began.
    """
    outcome = run_job(job, *made.command(job, root), "--num-workers", 1)
    assert outcome.status == 0, outcome.stderr
    assert names_and_sums(root) == made.expected[job]


# Victims


def parents() -> dict[int, int]:
    """The parent of every process of this machine."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                # The name in brackets may hold spaces.
                stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                found[int(entry.name)] = int(stat[1])
    return found


def processes_of(title: str) -> list[int]:
    """Ids of the running processes of this test's Ray with a title."""
    above, found = parents(), []
    for pid in above:
        ancestor = pid
        while ancestor in above and ancestor != os.getpid():
            ancestor = above[ancestor]
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{pid}/cmdline").read_text()
            if ancestor == os.getpid() and name.startswith("ray::") and title in name:
                found.append(pid)
    return sorted(found)


def workers(job: str) -> list[int]:
    """Ids of the processes of this test's Ray that run tasks of a job."""
    return processes_of(TASKS[job])


def await_(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def in_background(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def run_and_kill_a_worker(job: str, root: str, made: Undisturbed, rng: random.Random) -> None:
    killed: list[int] = []
    delay_s = rng.uniform(0, made.seconds[job] / 2)

    def kill() -> None:
        await_(lambda: workers(job))
        time.sleep(delay_s)
        # Tasks are short and have gaps between them.
        await_(lambda: workers(job) or not running.is_set())
        for pid in workers(job)[:1]:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    running = threading.Event()
    running.set()
    killer = in_background(kill)
    outcome = run_job(job, *made.command(job, root))
    running.clear()
    killer.join()
    # The job recovers from the loss.
    assert outcome.status == 0, outcome.stderr
    assert killed or delay_s > 0.1


def drive(job: str, arguments: list[str], environment: dict[str, str]) -> None:
    """What a driver's process runs."""
    os.environ.update(environment)
    page = getattr(importlib.import_module(f"pipelines.{job}"), job)
    cli = importlib.import_module("pipelines.recipes.cli")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        raise SystemExit(cli.run(page, arguments))


def run_and_kill_the_driver(job: str, root: str, made: Undisturbed, rng: random.Random) -> None:
    import ray

    # Processes are forked from one that has imported everything, and none of them is a fork
    # of this one.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([f"pipelines.{name}" for name in JOBS])
    address = ray.get_runtime_context().gcs_address
    environment = dict(os.environ) | {"RAY_ADDRESS": address}
    driver = processes.Process(target=drive, args=(job, made.command(job, root), environment))
    driver.start()
    place = storage.join(root, PLACES[job])
    await_(lambda: storage.walk(place) or not driver.is_alive())
    driver.join(rng.uniform(0, made.seconds[job]))
    driver.kill()
    driver.join()


def run_and_kill_the_server(
    job: str, root: str, made: Undisturbed, rng: random.Random, s3: S3Server
) -> Outcome:
    """The server comes back after a while, or only once the job has given up."""
    away_s, delay_s = rng.choice([0.3, None]), rng.uniform(0, made.seconds[job])
    given_up = threading.Event()

    def kill() -> None:
        time.sleep(delay_s)
        s3.kill()
        given_up.wait(away_s)
        s3.start()

    killer = in_background(kill)
    started = time.monotonic()
    try:
        outcome = run_job(job, *made.command(job, root))
        seconds = time.monotonic() - started
    finally:
        given_up.set()
        killer.join()
    assert seconds < LIMIT_S
    assert outcome.status in (0, 2), outcome.stderr
    if outcome.status:
        assert outcome.stderr.count("\n") == 1
        assert "run the same command again" in outcome.stderr
    return outcome


# Tests

KILLS, FEW = 20, 1
SEEDS = [pytest.param(seed, marks=[pytest.mark.slow][: seed >= FEW]) for seed in range(KILLS)]


@pytest.mark.e2e
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("job", JOBS)
def test_a_worker_dies(job: str, seed: int, undisturbed: Undisturbed, tmp_path: Path) -> None:
    root = prepared(job, str(tmp_path / "root"), undisturbed)
    run_and_kill_a_worker(job, root, undisturbed, random.Random(f"worker {seed}"))
    check(job, root, undisturbed)


@pytest.mark.e2e
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("job", JOBS)
def test_the_driver_dies(job: str, seed: int, undisturbed: Undisturbed, tmp_path: Path) -> None:
    root = prepared(job, str(tmp_path / "root"), undisturbed)
    run_and_kill_the_driver(job, root, undisturbed, random.Random(f"driver {seed}"))
    check(job, root, undisturbed)


@pytest.mark.e2e
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("job", JOBS)
def test_the_server_dies(job: str, seed: int, undisturbed: Undisturbed, s3: S3Server) -> None:
    root = prepared(job, f"s3://bucket/kill-{job}-{seed}", undisturbed)
    run_and_kill_the_server(job, root, undisturbed, random.Random(f"server {seed}"), s3)
    check(job, root, undisturbed)


@pytest.mark.e2e
def test_unfinished_uploads_are_aborted(undisturbed: Undisturbed) -> None:
    """An unfinished multi-part upload is not listed, but a store charges for it."""
    import fsspec

    root = prepared("encode_latents", "s3://bucket/kill-uploads", undisturbed)
    fs = fsspec.filesystem("s3")
    own, other = "kill-uploads/clips/train-000000.tar", "kill-uploads-of-another/clips/x.tar"
    for key in (own, other):
        upload = fs.call_s3("create_multipart_upload", Bucket="bucket", Key=key)
        fs.call_s3(
            "upload_part",
            Bucket="bucket",
            Key=key,
            UploadId=upload["UploadId"],
            PartNumber=1,
            Body=b"half",
        )
    outcome = run_job("shard_videos", *undisturbed.command("shard_videos", root))
    assert outcome.status == 0, outcome.stderr
    left = fs.call_s3("list_multipart_uploads", Bucket="bucket")["Uploads"]
    assert [upload["Key"] for upload in left] == [other]
