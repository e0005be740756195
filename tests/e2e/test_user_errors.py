"""Users' mistakes: exit status 2, one line with a cure, nothing written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from pipelines import train_vqgan
from pipelines.io import lock, storage
from pipelines.sharding import manifest
from pipelines.training.loader import Batch
from pipelines.training.methods.vqgan import VQGANMethod
from tests.e2e.conftest import SECRET, run_job

CASES = {
    "no videos": (("shard_videos", "--videos", "{empty}"), "pass --videos"),
    "unknown preset": (("shard_videos", "ucf10"), "did you mean 'ucf101'"),
    "unknown flag": (("shard_videos", "--frame", "8"), "--frames"),
    "no clips": (("train_vqgan",), "run jobs/shard_videos.py"),
    "no vqgan": (("encode_latents",), "run jobs/shard_videos.py"),
    "no latents": (("train_ldm",), "run jobs/train_vqgan.py"),
    "no model": (("sample",), "run jobs/train_ldm.py"),
    "no teacher": (("distill_ldm",), "run jobs/train_ldm.py"),
    "no model to evaluate": (("evaluate",), "run jobs/shard_videos.py"),
    "unknown metric": (("evaluate", "--metrics", "psmr"), "choose from"),
    "bad rate": (("shard_videos", "--fps", "fast"), "8,16"),
    "batch does not divide": (("train_ldm", "--batch-size", "5", "--num-workers", "2"), "multiple"),
    "a file for a root": (("demo_videos", "--root", "{file}"), "choose another path"),
}


@pytest.mark.e2e
@pytest.mark.parametrize("case", CASES)
def test_mistakes_are_reported_in_one_line(case, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    names = {"empty": tmp_path / "empty", "file": tmp_path / "file"}
    (name, *flags), cure = CASES[case]
    flags = [flag.format(**names) for flag in flags]
    if "--root" not in flags:
        flags += ["--root", str(tmp_path / "root")]
    outcome = run_job(name, *flags)
    assert outcome.status == 2
    assert cure in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert not (tmp_path / "root").exists()


@pytest.mark.e2e
def test_wrong_credentials(s3_server: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    outcome = run_job("train_vqgan", "--root", "s3://bucket/other")
    assert outcome.status == 2
    assert "AWS_ACCESS_KEY_ID" in outcome.stderr
    assert outcome.stderr.count("\n") == 1


OTHER_PYTHON = """
import sys
from pipelines.cluster.join import join_ray
from pipelines.recipes import cli


class Version(tuple):
    major, minor, micro = 3, 99, 0


def shard_videos(config):
    sys.version_info = Version((3, 99, 0, "final", 0))
    join_ray()


sys.exit(cli.run(shard_videos, []))
"""


@pytest.mark.e2e
def test_a_cluster_of_another_python_is_told(local_ray):
    import ray

    done = subprocess.run(
        [sys.executable, "-c", OTHER_PYTHON],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("error: this Python or Ray is not the cluster's: ")
    assert f"Python: {'.'.join(map(str, sys.version_info[:3]))} This process" in line
    assert "Python: 3.99.0: use the cluster's versions" in line


@pytest.mark.e2e
def test_a_damaged_shard_is_named_and_repaired(job, digit_videos: Path, tmp_path: Path):
    flags = ("--root", tmp_path, "--videos", digit_videos, "--videos-per-shard", 16)
    assert job("shard_videos", *flags).status == 0
    shard = tmp_path / "clips" / "train-000001.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-600])
    outcome = job("train_vqgan", "--root", tmp_path, "--steps", 1, "--batch-size", 36)
    assert outcome.status == 2
    assert str(shard) in outcome.stderr
    cure = "run jobs/shard_videos.py again with --verify to repair it"
    assert f"does not match its marker: {cure}" in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    shard.unlink()
    outcome = job("train_vqgan", "--root", tmp_path, "--steps", 1)
    cure = "run jobs/shard_videos.py again to repair it"
    assert outcome.stderr == f"error: {shard} is missing: {cure}\n"
    assert job("shard_videos", *flags).status == 0
    assert shard.read_bytes() == whole


@pytest.mark.e2e
def test_no_clip_at_all_is_an_error_that_says_why(job, digit_videos: Path, tmp_path: Path):
    (tmp_path / "videos/odd").mkdir(parents=True)
    for index, video in enumerate(sorted(digit_videos.rglob("*.mp4"))[:3]):
        shutil.copy(video, tmp_path / f"videos/odd/{index}.mp4")
    (tmp_path / "videos/odd/text.mp4").write_text("no video")
    flags = ("--root", tmp_path / "root", "--videos", tmp_path / "videos", "--fps", "native")
    outcome = job("shard_videos", *flags, "--frames", 400)
    assert outcome.status == 2
    assert "no clips of 4 videos: 3 too_short, 1 unreadable; too_short: lower" in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert [f.uri for f in storage.walk(str(tmp_path / "root/clips"))] == []
    rows = manifest.read(str(tmp_path / "root/videos.parquet")).to_pylist()
    assert [row["clips"] for row in rows] == [0] * 4
    # What was refused stands in nobody's way.
    assert job("shard_videos", *flags, "--frames", 8).status == 0


@pytest.mark.e2e
def test_a_place_that_may_not_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "makedirs", refuse)
    outcome = run_job("demo_videos", "--root", tmp_path / "root", "--count", "10")
    assert outcome.status == 2
    assert "check the permissions" in outcome.stderr
    assert storage.walk(str(tmp_path / "root")) == []


class RunsOutOfMemory(VQGANMethod):
    """As on a GPU that is too small."""

    def train_step(self, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")


@pytest.mark.e2e
def test_what_no_further_attempt_mends(
    job, digit_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A root that workers see otherwise than the driver; too little memory."""
    root, clips = ("--root", tmp_path), ("--videos", digit_videos, "--frames", 8, "--size", 16)

    @contextmanager
    def held_elsewhere(*_: object) -> Iterator[str]:
        yield "somebody else"

    with monkeypatch.context() as patch:
        patch.setattr(lock, "writing", held_elsewhere)
        outcome = job("shard_videos", *root, *clips)
    assert outcome.status == 2 and outcome.stderr.count("\n") == 1, outcome.stderr
    assert "the root is not shared between the nodes" in outcome.stderr
    assert not (tmp_path / "clips/index.json").exists()
    assert job("shard_videos", *root, *clips).status == 0
    monkeypatch.setattr(train_vqgan, "VQGANMethod", RunsOutOfMemory)
    outcome = job("train_vqgan", *root, "--num-workers", 1, "--steps", 2, "--batch-size", 4)
    assert outcome.status == 2 and outcome.stderr.count("\n") == 1, outcome.stderr
    assert "2.50 GiB more were asked for: pass --activation-checkpointing" in outcome.stderr
    assert "resuming from step" not in outcome.stdout
