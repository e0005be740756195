"""What the same training time buys: the demo's recipe beside the `vdm` preset, on the same clips.

    python -m benchmarks.quality [--root runs/bench] [--scale S] [--samples N]

The demo's two stages are trained for a share S of their steps; the time that takes, encoding
included, is how long the peer trains on pixels. Both are evaluated by the `evaluate` job on as
many samples. The demo's clips are made first, unless they lie in the root already.

At its full width the preset gets through a dozen steps in that time: it is made narrower and
shallower, as far as the proportions of its levels allow. Its samples are noise even so, whichever
sampler draws them (docs/LOG.md): the row says that the one is trained and the other not yet.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace

import torch

from benchmarks.jobs import job, own_ray
from benchmarks.loading import CLASSES, CLIP, index, random_batch, seconds_a_step, void
from benchmarks.results import Row, record, row
from benchmarks.sampling import CPU
from pipelines.cluster.cores import local_cpus
from pipelines.demo_videos import demo_videos
from pipelines.encode_latents import encode_latents
from pipelines.evaluate import evaluate
from pipelines.io import storage
from pipelines.io.workspace import Workspace, require
from pipelines.recipes.presets import PRESETS, demo
from pipelines.shard_videos import shard_videos
from pipelines.train_ldm import train_ldm
from pipelines.train_vqgan import train_vqgan
from pipelines.training.methods.ldm import LDMMethod
from pipelines.training.settings import PIXEL_SPACE
from pipelines.training.world import World
from vqvdm.inference import resolve_precision

OURS, PEER = "demo", "vdm"
VIDEOS = 400
PEER_BATCH, PEER_WIDTH, PEER_DEPTHS = 4, 16, (1, 1, 1, 1)
PEER_FLAGS = (
    *("--batch-size", str(PEER_BATCH), "--num-workers", "1"),
    *("--model.width", str(PEER_WIDTH), "--model.depths", *map(str, PEER_DEPTHS)),
    # The preset's own warm-up alone is longer than what can be trained here.
    *("--lr", "5e-4", "--warmup", "10", "--ema-decay", "0.95"),
)
METRICS = ("--metrics", "accuracy,motion,fvd", "--num-real", "200")
HEUN_STEPS = 5
EVALUATIONS = 2 * HEUN_STEPS - 1
"""Of the denoiser for a sample, on both sides: of the peer's each takes many times as long."""
SAMPLING = {
    OURS: ("--sampler", "heun", "--steps", str(HEUN_STEPS)),
    PEER: ("--sampler", "ddpm", "--steps", str(EVALUATIONS)),
}
GUIDANCE = ("--guidance", "3")
CHANCE = 1 / len(CLASSES)


def train_ours(root: str, scale: float) -> float:
    """Train the demo's recipe for a share of its steps; returns seconds."""
    preset, common = demo(), ("--root", root, "--overwrite")
    first, second = (round(scale * of.steps) for of in (preset.train_vqgan, preset.train_ldm))
    started = time.perf_counter()
    job(train_vqgan, *common, "--name", OURS, "--steps", str(first))
    job(encode_latents, *common, "--vqgan", OURS)
    job(train_ldm, *common, "--vqgan", OURS, "--name", OURS, "--steps", str(second))
    return time.perf_counter() - started


def peer_steps(seconds: float) -> int:
    """Steps that the peer does in so many seconds, from one that is measured."""
    torch.set_num_threads(local_cpus())
    config = PRESETS[PEER]().train_ldm
    narrow = replace(config.model, width=PEER_WIDTH, depths=PEER_DEPTHS)
    config = replace(config, batch_size=PEER_BATCH, model=narrow)
    shape = (3, *CLIP[:3])
    method = LDMMethod(config, World(dtype=resolve_precision("auto", CPU)), index(shape))
    batch = random_batch(PEER_BATCH, shape)
    return max(1, round(seconds / seconds_a_step(lambda s: void(method.train_step(batch, s)), 1)))


def train_peer(root: str, steps: int) -> float:
    """Train on pixels; returns seconds."""
    started = time.perf_counter()
    flags = ("--vqgan", PIXEL_SPACE, "--name", PEER, "--steps", str(steps), *PEER_FLAGS)
    job(train_ldm, PEER, "--root", root, "--overwrite", *flags)
    return time.perf_counter() - started


def evaluated(root: str, name: str, samples: int, *flags: str) -> dict[str, float]:
    """Metrics of a model by name."""
    count = ("--num-samples", str(samples))
    job(evaluate, OURS, "--root", root, "--overwrite", "--ldm", name, *METRICS, *count, *flags)
    return require(Workspace(root).eval(name), "metrics.json", "evaluate")["metrics"]


def rows(root: str, scale: float, samples: int) -> list[Row]:
    job(demo_videos, "--root", root, "--count", str(VIDEOS))
    job(shard_videos, "--root", root)
    ours_s = train_ours(root, scale)
    steps = peer_steps(ours_s)
    peer_s = train_peer(root, steps)
    ours, peer = (
        evaluated(root, name, samples, *GUIDANCE, *SAMPLING[name]) for name in (OURS, PEER)
    )
    accuracy, distance = "samples/clip_accuracy", "fvd_builtin"
    note = (
        f"trained {ours_s:.0f} s ({scale:.0%} of the demo's steps) against {peer_s:.0f} s "
        f"({steps} steps of {PEER_BATCH} clips, width {PEER_WIDTH}); {samples} samples each, "
        f"{EVALUATIONS} evaluations of the denoiser a sample (ours Heun, the peer DDPM); "
    )
    judged = [(max(CHANCE, ours[accuracy]), max(CHANCE, peer[accuracy]))]
    accuracies = f"{ours[accuracy]:.2f} against {peer[accuracy]:.2f}, at least chance"
    distances = f"{ours[distance]:.3g} against {peer[distance]:.3g}"
    return [
        row("class accuracy for the same training time", PEER, judged, 1.0, note + accuracies),
        row(
            "Fréchet distance for the same training time", PEER,
            [(peer[distance], ours[distance])], 1.0, note + distances,
        ),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", default="runs/bench")
    parser.add_argument("--scale", type=float, default=0.2)
    parser.add_argument("--samples", type=int, default=70)
    asked = parser.parse_args()
    root = storage.absolute(asked.root)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{root}/mlflow.db"
    os.makedirs(root, exist_ok=True)
    own_ray(trains=True)
    return record(rows(root, asked.scale, asked.samples))


if __name__ == "__main__":
    sys.exit(main())
