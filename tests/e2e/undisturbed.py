"""The outputs of undisturbed jobs on a dozen tiny videos, for comparison."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.io import storage
from pipelines.io.workspace import ID_FILE, Workspace
from pipelines.sharding import marker_cache
from pipelines.training.methods.vqgan import VQGANMethod
from pipelines.training.settings import TrainVQGAN
from pipelines.training.world import World
from tests.e2e.conftest import run_job
from tests.playable_videos import write_file
from vqvdm.tokenizer.vqgan import VQGANConfig

JOBS = ("shard_videos", "encode_latents")


@dataclass
class Undisturbed:
    """Videos, and the outputs of undisturbed jobs."""

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
    """Checksums of all that lies below a root, by name, except for its id, which is random, and for
    the cache that holds when files were written."""
    names = {file.uri[len(root) + 1 :] for file in storage.walk(root)}
    names -= {ID_FILE, f"clips/{marker_cache.NAME}"}
    return {name: storage.sha256(storage.join(root, name)) for name in sorted(names)}


def publish_vqgan(root: str, folder: Path) -> None:
    """Publish an untrained VQGAN, which suffices to encode."""
    for name in ("model.safetensors", "config.json"):
        storage.publish_file(folder / name, storage.join(Workspace(root).vqgan("base"), name))


def put_videos(folder: Path, uri: str, count: int) -> None:
    """Publish short videos of noise below a URI."""
    rng = np.random.default_rng(0)
    for index in range(count):
        write_file(folder / "v.mp4", rng.integers(0, 256, (32, 64, 64, 3), np.uint8), 16.0)
        storage.publish_file(folder / "v.mp4", f"{uri}/{'ab'[index % 2]}/{index}.mp4")


def make_undisturbed(folder: Path, videos: str, count: int) -> Undisturbed:
    """Put short videos into the bucket and run both jobs on them."""
    put_videos(folder, videos, count)
    root = str(folder / "undisturbed")
    made = Undisturbed(videos, root, folder / "vqgan", {}, {})
    for job in JOBS:
        if job == "encode_latents":
            clips = storage.read_json(f"{root}/clips/index.json")
            model = VQGANConfig(widths=(8, 16), depths=(1, 1), codebook_size=64)
            VQGANMethod(TrainVQGAN(model=model), World()).export(made.vqgan)
            config = storage.read_json(str(made.vqgan / "config.json"))
            config["inputs"] = {"clips": clips["fingerprint"]}
            config["about"] = {"clips": clips["spec_hash"]}
            storage.publish_json(config, str(made.vqgan / "config.json"))
            publish_vqgan(root, made.vqgan)
        started = time.monotonic()
        outcome = run_job(job, *made.command(job, root))
        assert outcome.status == 0, outcome.stderr
        made.seconds[job] = time.monotonic() - started
        made.expected[job] = names_and_sums(root)
    return made


def prepared(job: str, root: str, made: Undisturbed) -> str:
    """A root with all that the job reads, copied from the undisturbed one."""
    if job == "encode_latents":
        for name in made.expected["shard_videos"]:
            storage.publish_file(f"{made.root}/{name}", storage.join(root, name))
        publish_vqgan(root, made.vqgan)
    return root
