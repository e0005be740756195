"""Training loses no step: workers, the controller and the driver die, or are requested to stop.

After the same command has run again, everything that was published is, bit by bit, what an
undisturbed training makes, and every sample was consumed once an epoch in the same order.
`make test` kills one worker, `make chaos` ten times whatever can be killed.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pipelines.io import lock, storage
from pipelines.training.checkpoints import Checkpoints, consumed
from tests.e2e.conftest import Outcome, S3Server, run_job
from tests.e2e.test_kills import await_, drive, in_background, parents, processes_of
from tests.e2e.undisturbed import Undisturbed, names_and_sums

STEPS, MANY = 24, 150
"""Enough for a kill; and for a request to stop, which reaches the workers within a second."""
SETTINGS = [
    "--name", "trained", "--num-workers", "2", "--batch-size", "4",
    "--warmup", "2", "--log-every", "6", "--validate-every", "12", "--checkpoint-every", "3",
    "--log-keys",
]  # fmt: skip
MODELS = {
    # Both discriminators, LeCAM and a codebook whose codes die are part of what is resumed.
    "train_vqgan": [
        "--model.blocks", "4 8 8", "--model.widths", "8", "--model.depths", "1",
        "--model.codebook-size", "64", "--discriminator.width", "4", "--discriminator.levels", "2",
        "--loss.adversarial-start", "0.3",
    ],
    "train_ldm": [
        "--model.width", "16", "--model.multipliers", "1 2", "--model.depths", "1 1",
        "--model.head-width", "8",
    ],
}  # fmt: skip
JOBS = tuple(MODELS)
PLACES = {"train_vqgan": "vqgan/trained", "train_ldm": "ldm/trained"}


@dataclass(frozen=True)
class Trained:
    """A root to train in, and a folder for what undisturbed trainings make of it."""

    root: Path
    folder: Path

    def fresh(self, folder: Path) -> str:
        shutil.copytree(self.root, folder / "root")
        return str(folder / "root")

    @cache  # noqa: B019
    def undisturbed(self, job: str, steps: int) -> tuple[dict[str, str], list[list[str]]]:
        """What an undisturbed training publishes, and the keys of every step."""
        root = self.fresh(self.folder / f"{job}-{steps}")
        outcome = run_job(job, *command(job, root, steps))
        assert outcome.status == 0, outcome.stderr
        return published(job, root), consumed(storage.join(root, PLACES[job]))


def command(job: str, root: str, steps: int = STEPS) -> list[str]:
    arguments = ["--root", root, *SETTINGS, "--steps", str(steps)]
    for word in MODELS[job]:
        arguments += word.split()
    return arguments


def published(job: str, root: str) -> dict[str, str]:
    """Checksums of all files of a training, with checkpoints, but without keys."""
    files = names_and_sums(storage.join(root, PLACES[job]))
    return {name: digest for name, digest in files.items() if not name.startswith("keys/")}


@pytest.fixture(scope="module")
def trained(undisturbed: Undisturbed, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(undisturbed.root, folder / "empty")
    return Trained(folder / "empty", folder)


def check(job: str, root: str, trained: Trained, steps: int = STEPS) -> None:
    outcome = run_job(job, *command(job, root, steps))
    assert outcome.status == 0, outcome.stderr
    assert consumed(storage.join(root, PLACES[job])) == trained.undisturbed(job, steps)[1]


def check_bits(job: str, root: str, trained: Trained, steps: int = STEPS) -> None:
    check(job, root, trained, steps)
    assert published(job, root) == trained.undisturbed(job, steps)[0]


def step_of(job: str, root: str) -> int:
    return Checkpoints(storage.join(root, PLACES[job]), "", 1).newest_step() or 0


def at_random_step(job: str, root: str, rng: random.Random, running: Callable[[], bool]) -> int:
    """Wait until a random step has been trained; returns the checkpoint it lies behind."""
    step = rng.randrange(0, STEPS - 3)
    await_(lambda: processes_of("RayTrainWorker") or not running())
    await_(lambda: step_of(job, root) >= step or not running())
    return step


def run_and_signal(job: str, root: str, rng: random.Random, title: str, number: int) -> Outcome:
    """Run a job and send a signal to one of the processes that Ray calls by a title."""
    hit: list[int] = []
    ended: list[bool] = []

    def strike() -> None:
        at_random_step(job, root, rng, lambda: not ended)
        for pid in processes_of(title)[:1]:
            os.kill(pid, number)
            hit.append(pid)

    striker = in_background(strike)
    outcome = run_job(job, *command(job, root))
    ended.append(True)
    striker.join()
    assert hit
    return outcome


def run_driver(
    job: str, root: str, rng: random.Random, number: int, steps: int = STEPS
) -> int | None:
    """Run a job in a process of its own and send it a signal; returns its exit status."""
    import ray

    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([f"pipelines.{name}" for name in JOBS])
    environment = dict(os.environ) | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    driver = processes.Process(target=drive, args=(job, command(job, root, steps), environment))
    driver.start()
    at_random_step(job, root, rng, driver.is_alive)
    assert driver.pid
    os.kill(driver.pid, number)
    driver.join(120)
    return driver.exitcode


KILLS = 10


def cases(few: dict[str, int]) -> list:
    """Stage and seed; so many of each stage are not slow."""
    return [
        pytest.param(job, seed, marks=[pytest.mark.slow][: seed >= few.get(job, 0)])
        for job in JOBS
        for seed in range(KILLS)
    ]


@pytest.mark.e2e
@pytest.mark.parametrize(("job", "seed"), cases({"train_vqgan": 1}))
def test_a_worker_dies(job: str, seed: int, trained: Trained, tmp_path: Path) -> None:
    root, rng = trained.fresh(tmp_path), random.Random(f"worker {job} {seed}")
    outcome = run_and_signal(job, root, rng, "RayTrainWorker", signal.SIGKILL)
    assert outcome.status == 0, outcome.stderr  # the job recovers from the loss
    check_bits(job, root, trained)


@pytest.mark.e2e
@pytest.mark.parametrize(("job", "seed"), cases({}))
def test_the_controller_dies(job: str, seed: int, trained: Trained, tmp_path: Path) -> None:
    root, rng = trained.fresh(tmp_path), random.Random(f"controller {job} {seed}")
    outcome = run_and_signal(job, root, rng, "TrainController", signal.SIGKILL)
    assert outcome.status == 0, outcome.stderr
    check_bits(job, root, trained)


@pytest.mark.e2e
@pytest.mark.parametrize(("job", "seed"), cases({}))
def test_the_driver_dies(job: str, seed: int, trained: Trained, tmp_path: Path) -> None:
    root, rng = trained.fresh(tmp_path), random.Random(f"driver {job} {seed}")
    assert run_driver(job, root, rng, signal.SIGKILL) == -signal.SIGKILL
    check_bits(job, root, trained)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "number"), [*((job, signal.SIGTERM) for job in JOBS), ("train_ldm", signal.SIGINT)]
)
def test_a_driver_saves_before_it_stops_on_request(
    job: str, number: signal.Signals, trained: Trained, tmp_path: Path
) -> None:
    root, rng = trained.fresh(tmp_path), random.Random(f"stop {job}")
    assert run_driver(job, root, rng, number, MANY) == 1
    step = step_of(job, root)
    assert 0 < step < MANY
    folder = storage.join(root, PLACES[job])
    assert len(consumed(folder)) == step
    assert not Path(folder, "lock.json").exists()
    check_bits(job, root, trained, MANY)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_a_worker_saves_before_it_stops_on_request(
    job: str, trained: Trained, tmp_path: Path
) -> None:
    root, rng = trained.fresh(tmp_path), random.Random(f"spot {job}")
    outcome = run_and_signal(job, root, rng, "RayTrainWorker", signal.SIGTERM)
    assert outcome.status == 0, outcome.stderr
    assert "resuming from step" in outcome.stdout
    check_bits(job, root, trained)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_each_key_once_with_two_workers_then_one_then_two(
    job: str, trained: Trained, tmp_path: Path
) -> None:
    root, rng = trained.fresh(tmp_path), random.Random(f"scale {job}")
    for workers in (2, 1):
        before = step_of(job, root)
        ended: list[bool] = []

        # The second time as soon as the worker exists: it gets the request to stop before it
        # begins, and takes one step nevertheless.
        wanted = before + rng.randrange(1, 6) if workers == 2 else before

        def stop(wanted: int = wanted, ended: list[bool] = ended) -> None:
            await_(lambda: processes_of("RayTrainWorker") or ended)
            await_(lambda: step_of(job, root) >= wanted or ended)
            os.kill(os.getpid(), signal.SIGTERM)

        stopper = in_background(stop)
        outcome = run_job(job, *command(job, root, MANY), "--num-workers", workers)
        ended.append(True)
        stopper.join()
        assert outcome.status == 1, outcome.stderr
        assert "run the same command again" in outcome.stderr
        assert before < step_of(job, root) < MANY
    check(job, root, trained, MANY)
    keys = [key for step in trained.undisturbed(job, MANY)[1] for key in step]
    epoch = len(set(keys))
    assert len(keys) >= 2 * epoch
    for start in range(0, len(keys) - epoch + 1, epoch):
        assert len(set(keys[start : start + epoch])) == epoch


@pytest.mark.e2e
def test_a_second_job_in_the_same_place_is_refused(trained: Trained, tmp_path: Path) -> None:
    root = trained.fresh(tmp_path)
    with lock.writing(storage.join(root, PLACES["train_ldm"]), "train_ldm"):
        outcome = run_job("train_ldm", *command("train_ldm", root))
    assert outcome.status == 2
    assert outcome.stderr.count("\n") == 1
    assert f"process {os.getpid()} on" in outcome.stderr
    assert not Path(root, PLACES["train_ldm"], "checkpoints").exists()


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_a_store_that_goes_away_stops_with_one_line(
    job: str, trained: Trained, s3: S3Server
) -> None:
    root = f"s3://bucket/away-{job}"
    for file in storage.walk(str(trained.root)):
        name = file.uri[len(str(trained.root)) + 1 :]
        storage.publish_file(file.uri, storage.join(root, name))
    ended: list[bool] = []

    def strike() -> None:
        await_(lambda: step_of(job, root) >= 3 or ended)
        s3.kill()

    striker = in_background(strike)
    outcome = run_job(job, *command(job, root))
    ended.append(True)
    striker.join()
    s3.start()
    assert outcome.status == 2, outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert "run the same command again" in outcome.stderr
    assert 3 <= step_of(job, root) < STEPS
    check_bits(job, root, trained)


def train_over_nodes(root: str, results: multiprocessing.Queue) -> None:
    """Train on two of three raylets of one core each; one with a worker is killed."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "gcs_server_port": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    cluster.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = cluster.address
    job, lost = "train_ldm", []

    def strike() -> None:
        await_(lambda: step_of(job, root) >= 6)
        raylet = parents()[processes_of("RayTrainWorker")[0]]
        [node] = [node for node in nodes if raylet_of(node) == raylet]
        cluster.remove_node(node, allow_graceful=False)
        lost.append(step_of(job, root))

    striker = in_background(strike)
    outcome = run_job(job, *command(job, root))
    striker.join()
    results.put((outcome.status, outcome.stdout, outcome.stderr, lost))
    cluster.shutdown()


def raylet_of(node: Any) -> int:
    [raylet] = node.all_processes["raylet"]
    return raylet.process.pid


@pytest.mark.e2e
@pytest.mark.slow
def test_a_node_that_is_lost_costs_the_steps_since_the_last_checkpoint(
    trained: Trained, tmp_path: Path
) -> None:
    root = trained.fresh(tmp_path)
    processes = multiprocessing.get_context("spawn")
    results = processes.Queue()
    process = processes.Process(target=train_over_nodes, args=(root, results))
    process.start()
    status, stdout, stderr, (step,) = results.get(timeout=300)
    process.join(60)
    assert status == 0, stderr
    found = re.search(r"resuming from step (\d+)", stdout)
    assert found and int(found[1]) >= step >= 6
    assert step < STEPS
    check_bits("train_ldm", root, trained)
