"""The same videos and settings give the same bytes anywhere; a change redoes what depends on it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.io import storage
from tests.e2e.conftest import run_job
from tests.e2e.undisturbed import JOBS, Undisturbed, names_and_sums, publish_vqgan
from tests.playable_videos import write_file

FOUR_WORKERS = """
import json, sys, ray
from pipelines.cluster.join import ray_options
from tests.e2e.conftest import run_job
ray.init(num_cpus=4, include_dashboard=False, **ray_options(own=True))
for command in json.loads(sys.argv[1]):
    outcome = run_job(*command, "--num-workers", 4)
    sys.stderr.write(outcome.stderr)
    assert outcome.status == 0
"""


@pytest.mark.e2e
def test_one_worker_and_s3_give_the_bytes_of_two_and_a_disk(undisturbed: Undisturbed):
    root = "s3://bucket/same-bytes"
    for job in JOBS:
        if job == "encode_latents":
            publish_vqgan(root, undisturbed.vqgan)
        outcome = run_job(job, *undisturbed.command(job, root), "--num-workers", 1)
        assert outcome.status == 0, outcome.stderr
    assert names_and_sums(root) == undisturbed.expected["encode_latents"]


@pytest.mark.e2e
@pytest.mark.slow  # A Ray of its own; the test before has another number of workers too.
def test_four_workers_give_the_bytes_of_two(undisturbed: Undisturbed, tmp_path: Path):
    publish_vqgan(str(tmp_path), undisturbed.vqgan)
    jobs = [[job, *undisturbed.command(job, str(tmp_path))] for job in JOBS]
    command = [sys.executable, "-c", FOUR_WORKERS, json.dumps(jobs)]
    repository = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert names_and_sums(str(tmp_path)) == undisturbed.expected["encode_latents"]


def stamps(root: Path) -> dict[str, int]:
    """When each shard was written."""
    tars = [*root.glob("clips/*.tar"), *root.glob("latents/base/*.tar")]
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in tars}


@pytest.mark.e2e
def test_one_altered_video_redoes_its_shard_and_latents(undisturbed: Undisturbed, tmp_path: Path):
    videos, root = tmp_path / "videos", tmp_path / "root"
    shutil.copytree(undisturbed.root, root)
    for file in storage.walk(undisturbed.videos):
        target = videos / file.uri[len(undisturbed.videos) + 1 :]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(storage.read_bytes(file.uri))
    flags = ("--root", root, "--videos", videos, "--videos-per-shard", 2)

    def both() -> dict[str, int]:
        assert run_job("shard_videos", *flags).status == 0
        assert run_job("encode_latents", "--root", root, "--num-workers", 1).status == 0
        return stamps(root)

    before = both()
    assert len(before) >= 12
    noise = np.random.default_rng(99).integers(0, 256, (32, 64, 64, 3), np.uint8)
    write_file(videos / "a/4.mp4", noise, 16.0)
    after = both()
    touched = {name.split("/")[-1] for name in before if before[name] != after[name]}
    assert before.keys() == after.keys()
    assert len(touched) == 1
    assert {name for name in before if before[name] != after[name]} == {
        f"{folder}/{name}" for folder in ("clips", "latents/base") for name in touched
    }
