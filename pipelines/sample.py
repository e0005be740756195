"""Sampling: a bundle to videos, a grid and a list of what was made.

(class, number) ──▶ pool of actors, each with the generator ──▶ CLASS/00000.mp4 ──▶ grid
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import ray

from pipelines.cluster import local_cpus, ray_options, set_up_ray_data
from pipelines.io import checksums, storage, workspace
from pipelines.io.progress import Progress
from pipelines.io.workspace import require
from pipelines.sampling.settings import Sample, Sampling
from pipelines.sampling.worker import Request, SamplingWorker, in_batches
from pipelines.tracking.run import Run, start_run
from pipelines.video import Frames
from pipelines.video.encoder import encode_h264
from pipelines.video.grid import grid
from vqvdm.errors import UserError
from vqvdm.generator import VideoGenerator


def generation_graph(config: Sampling, requests: Sequence[Request]) -> Any:
    """A Ray dataset that yields the requests with their videos."""
    ray.init(**ray_options())
    set_up_ray_data(ray.data.DataContext.get_current())
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    groups = in_batches(requests, config.batch_size)
    actors = config.num_workers or max(1, min(gpus or int(resources.get("CPU", 1)), len(groups)))
    threads = max(1, local_cpus() // actors)
    return ray.data.from_items(
        [{"requests": group} for group in groups], override_num_blocks=len(groups)
    ).map(
        SamplingWorker,  # type: ignore[arg-type]
        fn_constructor_args=(config.workspace.ldm(config.ldm), config, "auto", threads),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
        concurrency=actors,
    )


def wanted_classes(text: str, known: Sequence[str]) -> list[str | None]:
    """The classes of `--classes`; `UserError` for one that the model was not trained on."""
    if text == "all":
        return list(known) or [None]
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    VideoGenerator.check_classes(names, known)
    return list(names)


def sample(config: Sample) -> str:
    """Sample videos with ROOT/ldm/NAME into ROOT/samples/OUTPUT."""
    config.check()
    space = config.workspace
    bundle = require(space.ldm(config.ldm), "config.json", "train_ldm")
    classes = wanted_classes(config.classes, bundle["classes"])
    folder = space.samples(config.output or config.ldm)
    requests = [
        Request(label, number, config.fps)
        for label in classes
        for number in range(config.num_per_class)
    ]
    recipe = checksums.fingerprint([config.recipe(), bundle["fingerprint"]])
    if config.dry_run:
        return f"would sample {len(requests)} videos of {len(classes)} classes into {folder}"
    if storage.exists(storage.join(folder, "samples.jsonl")) and not config.overwrite:
        lines = storage.read_bytes(storage.join(folder, "samples.jsonl")).splitlines()
        rows = [json.loads(line) for line in lines]
        workspace.refuse_other(folder, rows[0]["recipe"], recipe)
        verify_samples(folder, rows)
        return f"{len(rows)} videos are there already, verified"
    if config.overwrite:
        storage.delete(folder)

    with start_run("sample", config, {"ldm": bundle["fingerprint"]}) as run:
        rows, videos = [], {}
        for request, video in generate(config, requests):
            rows.append(_publish(request, video, config, run) | {"recipe": recipe})
            videos[request] = video
        rows.sort(key=lambda row: row["file"])
        picture = grid([videos[r] for r in requests], config.num_per_class, config.fps)
        storage.publish_bytes(picture, storage.join(folder, "grid.gif"))
        run.bytes(picture, "samples/grid.gif")
        listing = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
        storage.publish_bytes(listing.encode(), storage.join(folder, "samples.jsonl"))
        run.output(recipe)
    return f"{len(rows)} videos, {storage.join(folder, 'grid.gif')}"


def generate(config: Sample, requests: Sequence[Request]) -> Iterator[tuple[Request, Frames]]:
    """Each request with its video, as workers finish them."""
    progress = Progress("videos", len(requests))
    for row in generation_graph(config, requests).iter_rows():
        yield from zip(row["requests"], row["videos"], strict=True)
        progress.add(len(row["requests"]))


def _publish(request: Request, video: Frames, config: Sample, run: Run) -> dict[str, Any]:
    """Publish a video; returns its row of `samples.jsonl`."""
    mp4 = encode_h264(video, config.fps)
    folder = config.workspace.samples(config.output or config.ldm)
    storage.publish_bytes(mp4, storage.join(folder, request.file))
    if request.number == 0:
        run.bytes(mp4, f"samples/{request.file}")
    return {
        "file": request.file,
        "class": request.label,
        "fps": config.fps,
        "seed": request.seed(config.seed),
        "sha256": hashlib.sha256(mp4).hexdigest(),
    }


def verify_samples(folder: str, rows: Sequence[dict]) -> None:
    """`UserError` names the first video that is missing or changed."""
    for row in rows:
        uri = storage.join(folder, row["file"])
        try:
            intact = storage.sha256(uri) == row["sha256"]
        except FileNotFoundError:
            intact = False
        if not intact:
            raise UserError(
                f"{uri} is missing or changed: run jobs/sample.py --overwrite to make it again"
            )
