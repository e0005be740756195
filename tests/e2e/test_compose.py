"""A team's cluster as `infra/compose.yaml` has it: hosts with addresses of their own, which share
an S3 store and an MLflow server with PostgreSQL behind a password, and no disk.

A worker's host or the head's loses its power while a job works. The job goes on by itself, or
after the same command once the cluster stands again, and gives the bytes of an undisturbed run.
`make test` has one case, and sampling and evaluation undisturbed; `make chaos` has all eight.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipelines.io import storage
from pipelines.training.checkpoints import consumed
from pipelines.video.encoder import decode_clip
from tests.agreement import relative_error
from tests.compose import SECRETS, WORKERS, Cluster, composed, missing
from tests.e2e import test_training_kills as trainings
from tests.e2e.conftest import S3Server
from tests.e2e.test_training_kills import Trained
from tests.e2e.undisturbed import JOBS, Undisturbed, names_and_sums, prepared
from tests.hosts import Host, Network

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
trained = trainings.trained
HEAD = "ray-head"
QUICK = [("train_ldm", WORKERS[0])]
CASES = [(job, host) for job in (*JOBS, *trainings.JOBS) for host in (WORKERS[0], HEAD)]
PLACES = {"shard_videos": "clips", "encode_latents": "latents/base"} | trainings.PLACES
OF_MODEL = {
    "sample": ["--num-per-class", "12", "--batch-size", "1", "--steps", "2"],
    "evaluate": [
        "--metrics", "psnr", "--real-split", "all", "--num-samples", "4", "--steps", "2",
    ],
}  # fmt: skip
"""Jobs that take a model, and what makes them short."""
ROUNDING = 1e-3
"""Of a net's norm, after the few steps of these trainings."""
WORKING_S, DONE_S = 300, 600
RUNS = """
import json
import mlflow
client = mlflow.MlflowClient()
runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
tags = [[run.data.tags[name] for name in ("stage", "root")] for run in runs]
print(json.dumps([[*tag, run.info.status] for tag, run in zip(tags, runs)]))
"""


def folder_of(cluster: Cluster, job: str, host: str) -> Path:
    """The root of a case, in the folder of the store."""
    return cluster.data / "bucket" / f"{job}-{host}"


def require_hosts() -> None:
    """Skip where this machine cannot run the services, unless VQVDM_REQUIRE_HOSTS is set."""
    if reason := missing():
        if os.environ.get("VQVDM_REQUIRE_HOSTS"):
            pytest.fail(reason)
        pytest.skip(reason)


def test_a_host_ends_with_programs_that_changed_their_user() -> None:
    require_hosts()
    as_nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "sleep", "600"]
    with Network("one") as network:
        host = network.hosts["one"]
        host.start(as_nobody, {})
        host.wait_until(lambda: "sleep" in running_on(host), 30)
        host.cut()
        deadline = time.monotonic() + 10
        while running := running_on(host):
            assert time.monotonic() < deadline, running
            time.sleep(0.05)


def running_on(host: Host) -> list[str]:
    """Names of the processes of a host."""
    command = ["ip", "netns", "pids", host.namespace]
    ids = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    found = []
    for id in ids:
        with contextlib.suppress(OSError):
            found.append(Path(f"/proc/{id}/comm").read_text().strip())
    return found


@pytest.fixture(scope="module")
def cluster(s3: S3Server, undisturbed: Undisturbed, trained: Trained) -> Iterator[Cluster]:
    require_hosts()
    with composed() as cluster:
        shutil.copytree(s3.folder / "bucket/tiny-videos", cluster.data / "bucket/tiny-videos")
        for job, host in CASES:
            folder = folder_of(cluster, job, host)
            if job in JOBS:
                prepared(job, str(folder), undisturbed)
            else:
                shutil.copytree(trained.root, folder)
        trained.undisturbed("train_ldm", trainings.STEPS)
        with_model = trained.folder / f"train_ldm-{trainings.STEPS}/root"
        shutil.copytree(with_model, cluster.data / "bucket/with-model")
        cluster.start_all()
        yield cluster


def check(job: str, root: str, undisturbed: Undisturbed, trained: Trained) -> None:
    """Nothing is lost and nothing else lies there: shards are those of an undisturbed run, bit by
    bit; steps of a training took the same samples, and its nets are equal but for rounding, as some
    steps were taken by one worker while the other was away."""
    if job in JOBS:
        # A job that read on a host that is gone cannot take back its note, which becomes stale.
        found = {name: sum for name, sum in names_and_sums(root).items() if "/readers/" not in name}
        assert found == undisturbed.expected[job]
        return
    files, keys = trained.undisturbed(job, trainings.STEPS)
    assert trainings.published(job, root).keys() == files.keys()
    place = f"{root}/{PLACES[job]}"
    assert consumed(place) == keys
    whole = trained.folder / f"{job}-{trainings.STEPS}/root" / PLACES[job]
    found, expected = (load_file(f"{folder}/model.safetensors") for folder in (place, whole))
    # As a whole: some gradients are rounding alone, such as those of keys' biases.
    assert relative_error(flat(found), flat(expected)) < ROUNDING


def flat(tensors: dict[str, Tensor]) -> Tensor:
    """All numbers of a net, in one row."""
    return torch.cat([tensors[name].flatten().float() for name in sorted(tensors)])


def works(job: str, folder: Path) -> bool:
    """Whether a shard or a checkpoint is there."""
    pattern = "*.tar" if job in JOBS else "checkpoints/step-*.json"
    return any((folder / PLACES[job]).glob(pattern))


@pytest.mark.parametrize(
    ("job", "host"),
    [pytest.param(*case, marks=[pytest.mark.slow][: case not in QUICK]) for case in CASES],
)
def test_a_host_dies(
    cluster: Cluster, undisturbed: Undisturbed, trained: Trained, job: str, host: str
) -> None:
    folder = folder_of(cluster, job, host)
    root = f"s3://bucket/{folder.name}"
    command = trainings.command if job in trainings.JOBS else undisturbed.command
    arguments, ended = command(job, root), []

    def run() -> None:
        ended.append(cluster.submit(job, *arguments, timeout_s=DONE_S))

    running = threading.Thread(target=run)
    running.start()
    deadline = time.monotonic() + WORKING_S
    while not works(job, folder) and running.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert works(job, folder) and running.is_alive(), ended
    cluster.host(host).cut()
    if host == HEAD:
        cluster.stop_ray()
        running.join(DONE_S)
        assert ended and ended[0].returncode, ended
        assert not (folder / PLACES[job] / "index.json").exists()
        cluster.start_ray()
        run()
    else:
        cluster.start(host)
        running.join(DONE_S)
    said = ended[-1].stdout + ended[-1].stderr
    assert ended[-1].returncode == 0, said
    if job in trainings.JOBS:
        again = "resuming at step [1-9]" if host == HEAD else "resuming from step [1-9]"
        assert re.search(again, said), said
    check(job, str(folder), undisturbed, trained)
    assert states(cluster, job, root)[0] == "FINISHED"


def test_hosts_that_share_no_disk_sample_and_evaluate(cluster: Cluster) -> None:
    root, folder = "s3://bucket/with-model", cluster.data / "bucket/with-model"
    for job, flags in OF_MODEL.items():
        done = cluster.submit(job, "--root", root, "--ldm", "trained", *flags)
        assert done.returncode == 0, done.stdout + done.stderr
        assert states(cluster, job, root) == ["FINISHED"]
    listing = (folder / "samples/trained/samples.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in listing]
    videos = [folder / "samples/trained" / row["file"] for row in rows]
    assert [row["sha256"] for row in rows] == [storage.sha256(str(video)) for video in videos]
    assert len(rows) == 24 and len(decode_clip(videos[0].read_bytes())) == 16
    assert json.loads((folder / "eval/trained/metrics.json").read_text())["metrics"]["psnr"] > 0


def states(cluster: Cluster, job: str, root: str) -> list[str]:
    """The states of a job's runs in MLflow, the last first."""
    settings = cluster.environment(HEAD)
    done = cluster.host("laptop").run(["python", "-c", RUNS], settings, 120)
    assert done.returncode == 0, done.stderr
    return [state for *run, state in json.loads(done.stdout) if run == [job, root]]


def test_no_run_is_shown_without_a_password(cluster: Cluster) -> None:
    settings = cluster.environment(HEAD) | {"MLFLOW_TRACKING_PASSWORD": "guessed"}
    done = cluster.host("laptop").run(["python", "-c", RUNS], settings, 120)
    assert done.returncode and "401" in done.stderr


def test_logs_of_hosts_hold_no_secret(cluster: Cluster) -> None:
    hosts = cluster.network.hosts
    logs = {name: host.log.read_text() for name, host in hosts.items() if host.log.exists()}
    assert "Uvicorn running" in logs["mlflow"]
    for name, log in logs.items():
        assert not [secret for secret in SECRETS.values() if len(secret) > 4 and secret in log], (
            name
        )
