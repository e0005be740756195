"""The whole way of the data on real files, against a real S3 server."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipelines.io import storage
from pipelines.io.workspace import Workspace
from pipelines.sharding import manifest
from pipelines.video.encoder import decode_clip

SMALL_VQGAN = ("--model.widths", 8, 16, "--model.depths", 1, 1, "--model.codebook-size", 64)
SMALL_UNET = ("--model.width", 16, "--model.head-width", 8)
FEW_STEPS = ("--steps", 4, "--batch-size", 4, "--checkpoint-every", 2, "--log-every", 2)
FEW_SAMPLES = ("--num-samples", 20, "--steps", 2, "--detector-steps", 20)
ALONE = ("--num-workers", 1)
"""Each worker is a process, which takes seconds to start."""


def chain(root: str, videos: object) -> list[tuple[str, tuple]]:
    """Every job with the flags that make it small; training runs on two workers.

    tests/e2e/test_evaluation.py has the metrics that are left out.
    """
    return [
        ("shard_videos", ("--videos", videos, "--videos-per-shard", 16)),
        ("train_vqgan", (*FEW_STEPS, *SMALL_VQGAN, "--num-workers", 2)),
        ("encode_latents", ()),
        ("train_ldm", (*FEW_STEPS, *SMALL_UNET, "--num-workers", 2)),
        ("sample", ("--num-per-class", 1, "--steps", 2, *ALONE)),
        ("evaluate", (*FEW_SAMPLES, "--metrics", "psnr,accuracy,motion", *ALONE)),
    ]


def content(root: str) -> dict[str, str]:
    """Checksums of all that lies below a root."""
    return {file.uri: storage.sha256(file.uri) for file in storage.walk(root)}


@pytest.mark.e2e
def test_videos_become_a_generator(job, digit_videos):
    root = "s3://bucket/run"
    said = {}
    for name, flags in chain(root, digit_videos):
        outcome = job(name, "--root", root, *flags)
        assert outcome.status == 0, (name, outcome.stderr)
        said[name] = outcome.stdout

    space = Workspace(root)
    rows = manifest.read(space.manifest).to_pylist()
    assert len(rows) == 40
    assert {row["status"] for row in rows} == {"ok"}
    index = storage.read_json(storage.join(space.clips, "index.json"))
    assert sum(row["clips"] for row in rows) == sum(index["counts"].values()) == 40 * (1 + 2)
    latents = storage.read_json(storage.join(space.latents("base"), "index.json"))
    assert latents["shards"] == index["shards"]
    assert latents["shape"] == [3, 4, 8, 8]

    listing = storage.read_bytes(storage.join(space.samples("base"), "samples.jsonl"))
    files = [json.loads(line)["file"] for line in listing.splitlines()]
    assert len(files) == 10
    video = decode_clip(storage.read_bytes(storage.join(space.samples("base"), files[0])))
    assert video.shape == (16, 64, 64, 3)
    metrics = storage.read_json(storage.join(space.eval("base"), "metrics.json"))["metrics"]
    assert np.isfinite(list(metrics.values())).all()
    assert {"psnr", "samples/clip_accuracy", "samples/displacement_ratio"} <= metrics.keys()

    before = content(root)
    for name, flags in chain(root, digit_videos):
        outcome = job(name, "--root", root, *flags)
        assert outcome.status == 0, (name, outcome.stderr)
        assert "there already" in outcome.figure
    assert content(root) == before

    _check_tracking(root, said["train_ldm"])
    _check_refusals(job, root, digit_videos)


def _check_tracking(root: str, training: str) -> None:
    """One finished run a job; each names the run that made its input.

    `training` is what train_ldm printed.
    """
    from mlflow.tracking import MlflowClient

    from pipelines.tracking.server import EXPERIMENT, tracking_uri

    client = MlflowClient(tracking_uri())
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment
    runs = client.search_runs([experiment.experiment_id], f"tags.root = '{root}'")
    by_stage = {run.data.tags["stage"]: run for run in runs}
    assert len(runs) == len(by_stage) == 6
    assert {run.info.status for run in runs} == {"FINISHED"}

    def made(stage: str) -> str:
        return by_stage[stage].info.run_id

    links = [
        ("train_vqgan", "clips", "shard_videos"),
        ("encode_latents", "vqgan", "train_vqgan"),
        ("train_ldm", "latents", "encode_latents"),
        ("sample", "ldm", "train_ldm"),
        ("evaluate", "ldm", "train_ldm"),
    ]
    for stage, what, maker in links:
        assert by_stage[stage].data.tags[f"input.{what}.run"] == made(maker)
    curve = client.get_metric_history(made("train_ldm"), "train/loss")
    steps = [point.step for point in curve]
    assert sorted(set(steps)) == [2, 4]
    # What was done after the last checkpoint is done, and logged, again by another worker.
    assert len(steps) == 2 or "a worker was lost" in training, training
    artifacts = {item.path for item in client.list_artifacts(made("sample"), "samples")}
    assert "samples/grid.gif" in artifacts
    # The bundle is a version in the registry, with its card and the figures of its evaluation.
    (version,) = client.search_model_versions(f"run_id = '{made('train_ldm')}'")
    assert "jobs/train_ldm.py" in (version.description or "")
    assert float(version.tags["metric.psnr"]) > 0


def _check_refusals(job, root: str, videos: object) -> None:
    """Other settings in the same place are refused, and change nothing."""
    before = content(root)
    others = [
        ("shard_videos", ("--videos", videos, "--frames", 8)),
        ("train_vqgan", ("--steps", 5)),
        ("encode_latents", ("--batch-size", 3)),
        ("train_ldm", ("--steps", 5)),
        ("sample", ("--guidance", 1.5)),
        ("evaluate", ("--num-samples", 21)),
    ]
    for name, flags in others:
        outcome = job(name, "--root", root, *flags)
        assert outcome.status == 2, name
        assert "--overwrite" in outcome.stderr
        assert outcome.stderr.count("\n") == 1
    assert content(root) == before
