"""Jobs on a store that fails in many ways at once: the bytes are those of a sound store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from s3fs import S3FileSystem

from pipelines import encode_latents as encode_page
from pipelines import shard_videos as shard_page
from pipelines.cluster.devices import Devices
from pipelines.io import object_store, storage
from pipelines.io.markers import read_marker
from tests.e2e.conftest import run_job
from tests.e2e.undisturbed import (
    JOBS,
    Undisturbed,
    make_undisturbed,
    names_and_sums,
    publish_vqgan,
)
from tests.faulty_store import connect_to, faulty_store
from tests.s3_proxy import S3Proxy, fault

ROUGH = [
    fault(503, "put", "head", "list", times=1),
    fault(500, "get", "delete", times=1),
    fault("drop", "put", "get", "list", "head", times=1),
    fault("drop_answer", "put", "put_part", "complete_upload", times=1),
    fault("cut", "get", "list", times=1),
    fault("cut_request", "put", "put_part", times=1),
    fault("flip", "put", "put_part", times=1),
    fault("short_range", "get_range", times=1),
    fault(501, "get_range", "delete_many", "list_uploads"),
]
"""Each for every object and operation."""


def without_ray(patch: pytest.MonkeyPatch) -> None:
    """Do the work of a job in this process, where the proxy's address is known."""

    def on_workers(work: Any, plans: Any, config: Any, **columns: Any) -> Iterator[tuple]:
        for plan in plans:
            asked = {"retry": config.retry_failed, "verify": config.verify}
            yield plan, work({"plan": plan, **asked, **columns})

    def on_actors(actor: Any, rows: list[dict], pool: Any) -> Iterator[dict]:
        config = pool.config
        vqgan = config.workspace.vqgan(config.vqgan)
        yield from map(actor(vqgan, config.batch_size, config.precision, "cpu"), rows)

    patch.setattr(shard_page, "on_workers", on_workers)
    patch.setattr(encode_page, "on_actors", on_actors)
    patch.setattr(encode_page, "choose_devices", lambda request: Devices())
    patch.setattr(encode_page, "settle_precision", lambda devices: "fp32")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Proxy]:
    """A store of which parts and ranges are small."""
    folder = tmp_path_factory.mktemp("faulty")
    with faulty_store(folder / "s3") as proxy, pytest.MonkeyPatch.context() as patch:
        connect_to(proxy, patch)
        without_ray(patch)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setattr(object_store, "PART", 1 << 18)
        patch.setattr(S3FileSystem, "default_block_size", 1 << 18)
        S3FileSystem.clear_instance_cache()
        yield proxy
    S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def made(store: S3Proxy, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """What the jobs make while the store is sound."""
    return make_undisturbed(tmp_path_factory.mktemp("sound"), "s3://bucket/videos", 4)


@pytest.mark.e2e
def test_faults_that_pass_change_no_byte(store: S3Proxy, made: Undisturbed) -> None:
    root = "s3://bucket/rough"
    store.plan(*ROUGH)
    for job in JOBS:
        outcome = run_job(job, *made.command(job, root))
        assert outcome.status == 0, outcome.stderr
        if job == "shard_videos":
            publish_vqgan(root, made.vqgan)
    store.plan()
    assert names_and_sums(root) == made.expected["encode_latents"]


LASTING = {
    "overloaded": (fault(503), "reduce your request rate"),
    "full": (fault(500, "put", "put_part", key="train-000001"), "nternal"),
    "marker framed": (fault("frame", "put", key="train-000001.json"), "does not keep"),
    "shard altered": (fault("flip", "put", "put_part", key="000001.tar"), "does not keep"),
    "videos cut short": (fault("cut", "get", "get_range", key=".mp4"), "Not enough data"),
}


@pytest.mark.e2e
@pytest.mark.parametrize("case", LASTING)
def test_faults_that_last_lose_nothing(case: str, store: S3Proxy, made: Undisturbed) -> None:
    """One line ends the job; no marker says more than is true; the same command goes on."""
    root = f"s3://bucket/{case.replace(' ', '-')}"
    struck, words = LASTING[case]
    store.plan(struck)
    ended = run_job("shard_videos", *made.command("shard_videos", root))
    assert ended.status == 2, ended.stdout + ended.stderr
    [line] = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert words in line and store.endpoint in line, line
    store.plan()
    names = [file.uri.rpartition("/")[2] for file in storage.walk(f"{root}/clips")]
    for name in (name.removesuffix(".json") for name in names if name.endswith(".json")):
        marker = read_marker(f"{root}/clips", name)
        assert marker and storage.sha256(f"{root}/clips/{name}.tar") == marker.sha256
    outcome = run_job("shard_videos", *made.command("shard_videos", root))
    assert outcome.status == 0, outcome.stderr
    assert names_and_sums(root) == made.expected["shard_videos"]
