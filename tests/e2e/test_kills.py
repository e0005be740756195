"""A kill loses nothing: workers, drivers and the S3 server die at random moments.

After the same command has run again, the bytes are those of an undisturbed run and nothing else
lies there. `make test` runs a few kills of each kind, `make chaos` twenty.
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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipelines.config.schema import TrainVQGAN
from pipelines.io import storage
from pipelines.io.workspace import Workspace
from tests.e2e.conftest import Outcome, S3Server, run_job
from tests.e2e.test_chain import content

JOBS = ("shard_videos", "encode_latents")
PLACES = {"shard_videos": "clips", "encode_latents": "latents/base"}
TASKS = {"shard_videos": "make_shard", "encode_latents": "EncodeShard"}
"""What Ray calls the processes of the workers."""
LIMIT_S = 120


@dataclass
class Data:
    """Videos, and what undisturbed jobs make of them."""

    videos: str
    root: str
    vqgan: Path
    expected: dict[str, dict[str, str]]
    """Checksums by name below the place of each job's output."""
    seconds: dict[str, float]
    """How long each job works."""

    def command(self, job: str, root: str) -> list[str]:
        flags = ["--root", root]
        if job == "shard_videos":
            flags += ["--videos", self.videos, "--videos-per-shard", "2"]
        return flags


def names_and_sums(root: str) -> dict[str, str]:
    return {uri[len(root) + 1 :]: checksum for uri, checksum in content(root).items()}


def publish_vqgan(root: str, folder: Path) -> None:
    """An untrained VQGAN in its place: what it encodes is as good as any."""
    for name in ("model.safetensors", "config.json"):
        storage.publish_file(folder / name, storage.join(Workspace(root).vqgan("base"), name))


@pytest.fixture(scope="module")
def data(local_ray: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Data:
    """A dozen short videos in the bucket; both jobs have run undisturbed."""
    from pipelines.io.video import write_file
    from pipelines.training.methods import VQGANMethod
    from pipelines.training.world import World
    from vqvdm.tokenizer.vqgan import VQGANConfig

    folder = tmp_path_factory.mktemp("kills")
    rng = np.random.default_rng(0)
    for index in range(12):
        write_file(folder / "v.mp4", rng.integers(0, 256, (32, 64, 64, 3), np.uint8), 16.0)
        name = f"s3://bucket/kill-videos/{'ab'[index % 2]}/{index}.mp4"
        storage.publish_file(folder / "v.mp4", name)
    root = str(folder / "undisturbed")
    data = Data("s3://bucket/kill-videos", root, folder / "vqgan", {}, {})
    for job in JOBS:
        if job == "encode_latents":
            clips = storage.read_json(f"{root}/clips/index.json")
            model = VQGANConfig(widths=(8, 16), depths=(1, 1), codebook_size=64)
            VQGANMethod(TrainVQGAN(model=model), World()).export(data.vqgan)
            config = storage.read_json(str(data.vqgan / "config.json"))
            config["inputs"] = {"clips": clips["fingerprint"]}
            config["about"] = {"clips": clips["spec_hash"], "latent_shape": [3, 4, 8, 8]}
            storage.publish_json(config, str(data.vqgan / "config.json"))
            publish_vqgan(root, data.vqgan)
        started = time.monotonic()
        outcome = run_job(job, *data.command(job, root))
        assert outcome.status == 0, outcome.stderr
        data.seconds[job] = time.monotonic() - started
        data.expected[job] = names_and_sums(root)
    return data


def prepared(job: str, root: str, data: Data) -> str:
    """A root with all that the job reads, copied from the undisturbed one."""
    if job == "encode_latents":
        for name in data.expected["shard_videos"]:
            storage.publish_file(f"{data.root}/{name}", storage.join(root, name))
        publish_vqgan(root, data.vqgan)
    return root


def check(job: str, root: str, data: Data) -> None:
    """The same command once more makes what an undisturbed run makes, and nothing else.

    One worker does what two began.
    """
    outcome = run_job(job, *data.command(job, root), "--num-workers", 1)
    assert outcome.status == 0, outcome.stderr
    assert names_and_sums(root) == data.expected[job]


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


def workers(job: str) -> list[int]:
    """Ids of the processes of this test's Ray that work for a job just now."""
    above, found = parents(), []
    for pid in above:
        ancestor = pid
        while ancestor in above and ancestor != os.getpid():
            ancestor = above[ancestor]
        with contextlib.suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_text()
            if ancestor == os.getpid() and title.startswith("ray::") and TASKS[job] in title:
                found.append(pid)
    return sorted(found)


def await_(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def in_background(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def run_and_kill_a_worker(job: str, root: str, data: Data, rng: random.Random) -> None:
    killed: list[int] = []
    delay_s = rng.uniform(0, data.seconds[job] / 2)

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
    outcome = run_job(job, *data.command(job, root))
    running.clear()
    killer.join()
    # The job itself gets over the loss.
    assert outcome.status == 0, outcome.stderr
    assert killed or delay_s > 0.1


def drive(job: str, arguments: list[str], environment: dict[str, str]) -> None:
    """What a driver's process runs."""
    os.environ.update(environment)
    page = getattr(importlib.import_module(f"pipelines.{job}"), job)
    cli = importlib.import_module("pipelines.config.cli")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        raise SystemExit(cli.run(page, arguments))


def run_and_kill_the_driver(job: str, root: str, data: Data, rng: random.Random) -> None:
    import ray

    # Processes are forked from one that has imported everything, and none of them is a fork
    # of this one.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([f"pipelines.{name}" for name in JOBS])
    address = ray.get_runtime_context().gcs_address
    environment = dict(os.environ) | {"RAY_ADDRESS": address}
    driver = processes.Process(target=drive, args=(job, data.command(job, root), environment))
    driver.start()
    place = storage.join(root, PLACES[job])
    await_(lambda: storage.walk(place) or not driver.is_alive())
    driver.join(rng.uniform(0, data.seconds[job]))
    driver.kill()
    driver.join()


def run_and_kill_the_server(
    job: str, root: str, data: Data, rng: random.Random, s3: S3Server
) -> Outcome:
    """The server comes back after a while, or only once the job has given up."""
    away_s, delay_s = rng.choice([0.3, None]), rng.uniform(0, data.seconds[job])
    given_up = threading.Event()

    def kill() -> None:
        time.sleep(delay_s)
        s3.kill()
        given_up.wait(away_s)
        s3.start()

    killer = in_background(kill)
    started = time.monotonic()
    outcome = run_job(job, *data.command(job, root))
    seconds = time.monotonic() - started
    given_up.set()
    killer.join()
    assert seconds < LIMIT_S
    assert outcome.status in (0, 2), outcome.stderr
    if outcome.status:
        assert outcome.stderr.count("\n") == 1
        assert "run the same command again" in outcome.stderr
    return outcome


# Tests

KILLS, FEW = 20, 2
SEEDS = [pytest.param(seed, marks=[pytest.mark.slow][: seed >= FEW]) for seed in range(KILLS)]


@pytest.mark.e2e
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("job", JOBS)
def test_a_worker_dies(job: str, seed: int, data: Data, tmp_path: Path) -> None:
    root = prepared(job, str(tmp_path / "root"), data)
    run_and_kill_a_worker(job, root, data, random.Random(f"worker {seed}"))
    check(job, root, data)


@pytest.mark.e2e
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("job", JOBS)
def test_the_driver_dies(job: str, seed: int, data: Data, tmp_path: Path) -> None:
    root = prepared(job, str(tmp_path / "root"), data)
    run_and_kill_the_driver(job, root, data, random.Random(f"driver {seed}"))
    check(job, root, data)


@pytest.mark.e2e
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("job", JOBS)
def test_the_server_dies(job: str, seed: int, data: Data, s3: S3Server) -> None:
    root = prepared(job, f"s3://bucket/kill-{job}-{seed}", data)
    run_and_kill_the_server(job, root, data, random.Random(f"server {seed}"), s3)
    check(job, root, data)
