"""What more of the same costs: curves of seconds, into benchmarks/growth.json.

    python -m benchmarks.growth [NAME …] [--root runs/bench] [--repeats N]

Names: frames, size and batch (sampling with the nets of `ucf101-small`, 4 steps and decoding),
training (a step of its denoiser), sharding (by number of videos), evaluation (by number of samples,
of the model that `benchmarks.quality` left in the root). Medians of repeats in turns; of sharding
and of evaluation, which take long, one of each after one to warm up.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.bundle import DENOISER, LATENT
from benchmarks.data_plane import few, make_videos, shard
from benchmarks.jobs import own_ray
from benchmarks.loading import index, random_batch, void
from benchmarks.quality import OURS, evaluated
from benchmarks.results import PLACE, machine
from benchmarks.sampling import CPU, generator, in_turns, sample
from pipelines.cluster.cores import local_cpus
from pipelines.io import storage
from pipelines.recipes.presets import ucf101_small
from pipelines.training.methods.ldm import LDMMethod
from pipelines.training.world import World
from vqvdm.inference import resolve_precision

CURVES = PLACE.with_name("growth.json")
FRAMES, SIZES, BATCHES = (8, 16, 32, 64), (64, 128, 192, 256), (1, 2, 4, 8, 16)
VIDEOS, SAMPLES = (25, 50, 100, 200), (70, 140, 280, 420)
STEPS = 4


@dataclass(frozen=True)
class Curve:
    """Seconds for each amount of something."""

    name: str
    unit: str
    amounts: Sequence[int]
    seconds: Sequence[float]
    note: str


def curve(name: str, unit: str, works: Mapping[int, Callable[[], object]], repeats: int) -> Curve:
    """The curve of works by their amount, in turns after one that does not count."""
    taken = in_turns({str(amount): work for amount, work in works.items()}, repeats)
    seconds = [round(statistics.median(each), 4) for each in taken.values()]
    return Curve(name, unit, list(works), seconds, machine())


def sampling(
    name: str, unit: str, shapes: Mapping[int, tuple[int, ...]], repeats: int, count: int = 0
) -> Curve:
    """Sampling with a latent shape by amount; the amount is the batch where no count is given."""
    works = {
        amount: partial(sample, generator("auto", shape), STEPS, 1.0, count or amount)
        for amount, shape in shapes.items()
    }
    return curve(name, unit, works, repeats)


def frames(repeats: int, root: str) -> Curve:
    shapes = {count: (3, count // 4, *LATENT[2:]) for count in FRAMES}
    return sampling("4 steps and decoding", "frames of 128x128", shapes, repeats, 1)


def size(repeats: int, root: str) -> Curve:
    shapes = {side: (3, LATENT[1], side // 8, side // 8) for side in SIZES}
    return sampling("4 steps and decoding", "height and width of 16 frames", shapes, repeats, 1)


def batch(repeats: int, root: str) -> Curve:
    return sampling(
        "4 steps and decoding", "clips at once", dict.fromkeys(BATCHES, LATENT), repeats
    )


def training(repeats: int, root: str) -> Curve:
    config = replace(ucf101_small().train_ldm, model=DENOISER)
    world = World(dtype=resolve_precision("auto", CPU))

    def step(count: int) -> Callable[[], object]:
        method = LDMMethod(replace(config, batch_size=count), world, index(LATENT))
        clips = random_batch(count, LATENT)
        return lambda: void(method.train_step(clips, 0))

    return curve("a training step", "clips", {count: step(count) for count in BATCHES}, repeats)


def sharding(repeats: int, root: str) -> Curve:
    own_ray()
    with tempfile.TemporaryDirectory(prefix="vqvdm-bench-") as folder:
        place = Path(folder)
        make_videos(place / "videos", max(VIDEOS))

        def work(count: int) -> float:
            some = few(place / "videos", Path(tempfile.mkdtemp(dir=place)), count)
            started = time.perf_counter()
            shard(some, Path(tempfile.mkdtemp(dir=place)))
            return time.perf_counter() - started

        work(min(VIDEOS))
        seconds = [round(work(count), 2) for count in VIDEOS]
    return Curve("shard_videos", "videos of 4 s, 320x240", list(VIDEOS), seconds, machine())


def evaluation(repeats: int, root: str) -> Curve:
    own_ray()

    def work(count: int, seed: int) -> float:
        started = time.perf_counter()
        evaluated(root, OURS, count, "--seed", str(seed))  # samples of another seed are not kept
        return time.perf_counter() - started

    work(min(SAMPLES), 0)
    seconds = [round(work(count, seed), 2) for seed, count in enumerate(SAMPLES, 1)]
    return Curve("evaluate", "samples of 16x64x64", list(SAMPLES), seconds, machine())


MEASURED = {each.__name__: each for each in (frames, size, batch, training, sharding, evaluation)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--root", default="runs/bench")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(MEASURED):
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(MEASURED)}")
    root = storage.absolute(asked.root)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{root}/mlflow.db"
    os.makedirs(root, exist_ok=True)
    torch.set_num_threads(local_cpus())
    known = json.loads(CURVES.read_text()) if CURVES.exists() else {}
    for name in asked.names or MEASURED:
        known[name] = asdict(MEASURED[name](asked.repeats, root))
        print(name, known[name]["amounts"], known[name]["seconds"], flush=True)
        CURVES.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
