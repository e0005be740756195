"""Sampling: a bundle to videos, a grid and a list of what was made.

(class, number) ──▶ pool of actors, each with the generator ──▶ CLASS/00000.mp4 ──▶ grid
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from PIL import Image

from pipelines import tracking
from pipelines.config.scale import local_cpus, ray_options, set_up_ray_data
from pipelines.config.schema import Sample, Sampling
from pipelines.generation import Generate, Request, batches
from pipelines.io import storage, workspace
from pipelines.io.video import Frames, encode_h264
from pipelines.io.workspace import require
from pipelines.progress import Progress
from vqvdm.errors import UserError
from vqvdm.generator import VideoGenerator


def generation_graph(config: Sampling, requests: Sequence[Request]) -> Any:
    """A Ray dataset that yields the requests with their videos."""
    ray.init(**ray_options())
    set_up_ray_data(ray.data.DataContext.get_current())
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    groups = batches(requests, config.batch_size)
    actors = config.num_workers or max(1, min(gpus or int(resources.get("CPU", 1)), len(groups)))
    threads = max(1, local_cpus() // actors)
    return ray.data.from_items(
        [{"requests": group} for group in groups], override_num_blocks=len(groups)
    ).map(
        Generate,  # type: ignore[arg-type]
        fn_constructor_args=(config.workspace.ldm(config.ldm), config, "auto", threads),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
        concurrency=actors,
    )


def wanted_classes(text: str, known: Sequence[str]) -> list[str | None]:
    """The classes of `--classes`; `UserError` for one the model never saw."""
    if text == "all":
        return list(known) or [None]
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    VideoGenerator.check_classes(names, known)
    return list(names)


def grid(videos: Sequence[Frames], columns: int, fps: float) -> bytes:
    """A GIF of videos side by side, row after row."""
    height, width = videos[0].shape[1:3]
    rows = -(-len(videos) // columns)
    canvas = np.zeros((len(videos[0]), rows * height, columns * width, 3), np.uint8)
    for index, video in enumerate(videos):
        row, column = divmod(index, columns)
        top, left = row * height, column * width
        canvas[:, top : top + height, left : left + width] = video
    frames = [Image.fromarray(frame) for frame in canvas]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=1000 / fps, loop=0
    )
    return buffer.getvalue()


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
    recipe = storage.fingerprint([config.recipe(), bundle["fingerprint"]])
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

    inputs = {"ldm": bundle["fingerprint"]}
    with tracking.run("sample", config, inputs) as run:
        rows, shown = [], {}
        graph = generation_graph(config, requests)
        watch = Progress("videos", len(requests))
        for row in graph.iter_rows():
            for request, video in zip(row["requests"], row["videos"], strict=True):
                mp4 = encode_h264(video, config.fps)
                storage.publish_bytes(mp4, storage.join(folder, request.file))
                shown[request.file] = video
                rows.append(
                    {
                        "file": request.file,
                        "class": request.label,
                        "fps": config.fps,
                        "seed": request.seed(config.seed),
                        "sha256": hashlib.sha256(mp4).hexdigest(),
                        "recipe": recipe,
                    }
                )
                if request.number == 0:
                    run.bytes(mp4, f"samples/{request.file}")
            watch.add(len(row["requests"]))
        rows.sort(key=lambda row: row["file"])
        picture = grid([shown[r.file] for r in requests], config.num_per_class, config.fps)
        storage.publish_bytes(picture, storage.join(folder, "grid.gif"))
        run.bytes(picture, "samples/grid.gif")
        listing = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
        storage.publish_bytes(listing.encode(), storage.join(folder, "samples.jsonl"))
        run.output(recipe)
    return f"{len(rows)} videos, {storage.join(folder, 'grid.gif')}"


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
