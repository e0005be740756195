"""Sampling: a bundle to videos, a grid and a list of what was made.

    (class, prompt, number) ──▶ pool of actors, each with the generator ──▶ CLASS/00000.mp4 ──▶ grid
     conditions ──┘

Actors publish the videos themselves. A job that was killed resumes with the batches that are left.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from pipelines.cluster import tasks
from pipelines.cluster.devices import Devices
from pipelines.cluster.placement import choose_devices, describe_devices, settle_precision
from pipelines.io import checksums, lock, other_settings, rates, storage, workspace
from pipelines.io.bundles import refuse_lost_encoder
from pipelines.io.progress import Progress
from pipelines.io.workspace import require
from pipelines.sampling.conditions import (
    ClipShape,
    Condition,
    check_mode,
    known_frames,
    list_conditions,
    read_conditions,
)
from pipelines.sampling.settings import Sample
from pipelines.sampling.worker import (
    BATCHES,
    PublishingWorker,
    Request,
    SampleBatch,
    begun_in,
    classes_in_turn,
    in_batches,
    is_intact,
    names_among,
    note_precision,
    publish_condition,
    read_condition,
)
from pipelines.tracking.run import Run
from pipelines.tracking.start import start_run
from pipelines.video import Frames
from pipelines.video.encoder import clip_shape, decode_clip
from pipelines.video.grid import fit, grid
from vqvdm.errors import UserError
from vqvdm.generator import VideoGenerator
from vqvdm.inference import Precision
from vqvdm.text_encoder import refuse_missing_library
from vqvdm.video_shapes import VideoShapes
from vqvdm.windows import spread

SETTINGS = "settings.json"
"""What the samples of a folder were made by."""
PICTURE = "grid.gif"
"""Published after the list of samples."""
FILES = re.compile(
    rf"[^/]+/\d{{5,}}\.mp4|{BATCHES}/[^/]+|{SETTINGS}|{re.escape(PICTURE)}|samples\.jsonl|{lock.FILES}"
)
"""Names of the files of a folder of samples."""
GRID = 16, 8
"""Rows and columns of the picture at most."""


def devices_for(config: Sample, batches: Sequence[SampleBatch]) -> Devices:
    """Join the cluster, and wait for what the batches are made on."""
    return choose_devices(replace(config.request(), at_most=len(batches)))


def precision_for(batches: Sequence[SampleBatch], devices: Devices) -> Precision:
    """The arithmetic of all videos: of those too that a job which was killed has made, unless these
    workers would emulate it."""
    first, begun = batches[0], begun_in(batches[0])
    precision = settle_precision(devices, begun)
    if precision != begun:
        note_precision(first, precision)
    return precision


def make_batches(
    config: Sample, batches: Sequence[SampleBatch], devices: Devices
) -> Iterator[dict]:
    """Have the batches made by a pool of workers; yields the rows of their videos, as they come."""
    bundle = config.workspace.ldm(config.ldm)
    return tasks.run(
        [{"batch": number} for number in range(len(batches))],
        PublishingWorker,
        fn_constructor_args=(bundle, config, precision_for(batches, devices), devices, batches),
        num_cpus=1,
        num_gpus=devices.gpus_per_worker,
        concurrency=min(devices.workers, len(batches)),
    )


def wanted_classes(text: str, known: Sequence[str], in_turn: bool = False) -> list[str | None]:
    """The classes of `--classes`, or with `in_turn` maybe several in one video; `UserError` for one
    that the model was not trained on."""
    if text == "all":
        return list(known) or [None]
    labels, turns = list[str](), list[str]()
    for name, separator in names_among(text, ",:" if in_turn else ",", known):
        VideoGenerator.check_classes([name], known)
        turns.append(name)
        if separator != ":":
            labels.append(":".join(turns))
            turns.clear()
    return list(dict.fromkeys(labels))


def wanted_prompts(config: Sample, bundle: Mapping[str, Any]) -> list[str]:
    """All prompts, those of the file last; `UserError` if the model takes none, or cannot read
    them, or a file has none."""
    prompts = list(config.prompts)
    if config.prompts_file:
        text = storage.read_text(storage.absolute(config.prompts_file), "--prompts-file")
        lines = [line.strip() for line in text.splitlines()]
        if not any(lines):
            raise UserError(f"--prompts-file {config.prompts_file} is empty: give a prompt a line")
        prompts += filter(None, lines)
    if prompts and "text" not in bundle:
        raise UserError(
            f"ldm/{config.ldm} was trained without captions, and takes no prompts: encode them by "
            "jobs/encode_latents.py --text-encoder FOLDER, train a model on that, and pass --ldm"
        )
    if prompts:
        refuse_missing_library()
        refuse_lost_encoder(config.workspace.ldm(config.ldm), bundle)
    return prompts


def requested(
    config: Sample, known: Sequence[str], conditions: Sequence[Condition]
) -> list[Request]:
    """Every video to make: so many of each class, prompt and condition."""
    labels = wanted_classes(config.classes, known, in_turn=config.mode == "extend")

    def labels_of(condition: Condition | None) -> Sequence[str | None]:
        if config.classes != "all" or not (condition or config.prompts):
            return labels
        return [condition.label(known) if condition else None]

    given = list(
        product(enumerate(conditions) if conditions else [(None, None)], config.prompts or [None])
    )
    return [
        Request(label, place * config.num_per_class + number, config.rate, which, prompt)
        for place, ((which, condition), prompt) in enumerate(given)
        for label in labels_of(condition)
        for number in range(config.num_per_class)
    ]


def sample(config: Sample) -> str:
    """Sample videos with ROOT/ldm/NAME into ROOT/samples/OUTPUT."""
    config.check()
    space = config.workspace
    bundle = require(space.ldm(config.ldm), "config.json", "train_ldm")
    vqgan = require(space.ldm(config.ldm), "vqgan/config.json", "train_ldm")
    shapes = VideoShapes.read(bundle, vqgan)
    config = config.for_model(bundle).for_size(shapes.trained[1])
    config = config.with_prompts(wanted_prompts(config, bundle))
    shape = check_mode(config, bundle, shapes)
    conditions = list_conditions(config.condition) if config.condition else []
    requests = requested(config, bundle["classes"], conditions)
    if config.mode == "extend" and config.frames:
        for label in {request.label for request in requests}:
            spread(classes_in_turn(label, bundle["classes"]), shape.windows(config.frames))
    classes = dict.fromkeys(request.label for request in requests)
    folder = space.samples(config.output or config.ldm)
    made_from = [config.recipe(), bundle["fingerprint"]]
    if conditions:
        made_from.append([[each.name, each.sha256] for each in conditions])
        # Their folders name the classes, unless these are asked for.
        made_from.append([request.label for request in requests])
    recipe = checksums.fingerprint(made_from)
    tell_rate(config, bundle)
    groups = in_batches(requests, config.batch_size)
    if config.dry_run:
        print(describe_devices(replace(config.request(), at_most=len(groups))))
        return f"would sample {len(requests)} videos of {len(classes)} classes into {folder}"
    done, picture_uri = published_rows(folder), storage.join(folder, PICTURE)
    lacks_picture = bool(done) and not storage.exists(picture_uri)
    if done and not config.overwrite:
        refuse_other(config, folder, done[0]["recipe"], recipe, bundle["fingerprint"])
        verify_samples(folder, done)
        if not lacks_picture:
            return f"{len(done)} videos are there already, verified"
    names = tuple(condition.name for condition in conditions)
    reading = lock.reading("sample", space.ldm(config.ldm))
    run_of_job = start_run("sample", config, {"ldm": bundle["fingerprint"]})
    with reading, lock.writing(folder, "sample") as owner, run_of_job as run:
        batches = [SampleBatch(folder, recipe, tuple(group), names, owner) for group in groups]
        # What cannot be read is told before anything is deleted.
        given = [
            publish_condition(folder, number, clip, config.rate)
            for number, clip in enumerate(read_conditions(conditions, config, shape))
        ]
        devices = None
        # A job that was killed before its picture resumes, even with --overwrite.
        if done and not (lacks_picture and done[0]["recipe"] == recipe):
            devices = devices_for(config, batches)  # What the cluster lacks is told before, too.
            lock.refuse_taken(folder)
            storage.keep_only(folder, [lock.NAME, *given], FILES)
        rows = done
        if config.overwrite or not done:
            made = make_samples(config, batches, run, devices)
            rows = sorted(made, key=lambda row: row["file"])
            lock.refuse_taken(folder)
            storage.delete(picture_uri)
            made_by = {"settings": config.recipe(), "ldm": bundle["fingerprint"]}
            storage.publish_json(made_by, storage.join(folder, SETTINGS))
            listing = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
            storage.publish_bytes(listing.encode(), storage.join(folder, "samples.jsonl"))
        # After the list: samples count without it.
        picture = (
            grid_beside_conditions(folder, requests, config, shape)
            if conditions
            else grid_of(folder, requests)
        )
        lock.refuse_taken(folder)
        storage.publish_bytes(picture, picture_uri)
        run.bytes(picture, f"samples/{PICTURE}")
        published = [lock.NAME, SETTINGS, PICTURE, "samples.jsonl", *(r["file"] for r in rows)]
        storage.keep_only(folder, published, FILES)
        run.output(recipe)
    return f"{len(rows)} videos, {picture_uri}"


def tell_rate(config: Sample, bundle: Mapping[str, Any]) -> None:
    """A note on a frame rate that the model has never seen."""
    if "fps" in bundle and rates.others(bundle, [config.rate]):
        known = ", ".join(f"{rate:g}" for rate in bundle["fps"])
        if "rate_count" in bundle:
            known = f"{min(bundle['fps']):g} to {max(bundle['fps']):g}"
        print(
            f"note: ldm/{config.ldm} was trained on clips of {known} frames a second, and is asked "
            f"for {config.rate:g}: pass another --fps, or leave it out",
            flush=True,
        )


def refuse_other(config: Sample, folder: str, found: str, wanted: str, ldm: str) -> None:
    """`UserError` names the settings, or the model, by which other samples fill the folder."""
    before = workspace.published(folder, SETTINGS) or {}
    differing = other_settings.changed(before.get("settings", config.recipe()), config.recipe())
    if not differing and before.get("ldm", ldm) != ldm:
        differing = f"{config.ldm} has been retrained"
    other_settings.refuse_other(folder, found, wanted, differing, "--output")


def make_samples(
    config: Sample, batches: Sequence[SampleBatch], run: Run, devices: Devices | None = None
) -> Iterator[dict]:
    """The rows of all videos: first those that a job that was killed left, then the new ones.

    `devices` are those for all batches, if they are chosen already.
    """
    progress = Progress("videos", sum(len(batch.requests) for batch in batches), log=run.progress)
    left = []
    for batch in batches:
        rows = batch.finished()
        if rows is None:
            left.append(batch)
            continue
        progress.add(len(rows))
        yield from rows
    if not left:
        return
    for made in make_batches(config, left, devices or devices_for(config, left)):
        batch, rows = left[made["batch"]], json.loads(made["rows"])
        for row, request in zip(rows, batch.requests, strict=True):
            if request.number == 0:
                video = storage.read_bytes(storage.join(batch.folder, row["file"]))
                run.bytes(video, f"samples/{row['file']}")
        progress.add(len(rows))
        yield from rows


def grid_of(folder: str, requests: Sequence[Request]) -> bytes:
    """A GIF of the published videos, a class and prompt a row below their names: at most `GRID`
    rows and columns, evenly spread over all, as far as they `fit`."""
    by_title: dict[str, list[Request]] = {}
    for request in requests:
        by_title.setdefault(request.title, []).append(request)
    groups = list(by_title.values())
    rows = groups[:: -(-len(groups) // GRID[0])]
    shape = clip_shape(_video_of(folder, rows[0][0]))
    fits = fit(len(rows), min(GRID[1], len(rows[0])), shape)
    videos = (
        decode_clip(_video_of(folder, request), fits.step)
        for row in rows
        for request in row[: fits.columns]
    )
    captions = [row[0].title for row in rows]
    fps = requests[0].fps / fits.step
    return grid(videos, fits.columns, fps, captions if any(captions) else (), fits.shrink)


def grid_beside_conditions(
    folder: str, requests: Sequence[Request], config: Sample, shape: ClipShape
) -> bytes:
    """As `grid_of`, a condition, class and prompt a row, a prompt below its name: the frames that
    were given, black where none were, then what was made of them."""
    by_condition: dict[tuple[int | None, str], list[Request]] = {}
    for request in requests:
        by_condition.setdefault((request.condition, request.title), []).append(request)
    groups = list(by_condition.values())
    rows = groups[:: -(-len(groups) // GRID[0])]
    frames, height, width = clip_shape(_video_of(folder, rows[0][0]))
    columns = min(GRID[1], 1 + len(rows[0]))
    fits = fit(len(rows), columns, (frames, height, width), fewest=2)

    def given(number: int | None) -> Frames:
        assert number is not None
        known = known_frames(config, shape, decode_clip(read_condition(folder, number))[None])
        video = known.videos_NTHWC[0] * known.mask_NT[0, :, None, None, None]
        black = np.zeros((frames - len(video), height, width, 3), np.uint8)
        return np.concatenate([video, black], dtype=np.uint8)[:: fits.step]

    def videos() -> Iterator[Frames]:
        for row in rows:
            yield given(row[0].condition)
            for request in row[: fits.columns - 1]:
                yield decode_clip(_video_of(folder, request), fits.step)

    prompts = [row[0].title for row in rows] if config.prompts else ()
    return grid(videos(), fits.columns, config.rate / fits.step, prompts, fits.shrink)


def _video_of(folder: str, request: Request) -> bytes:
    return storage.read_bytes(storage.join(folder, request.file))


def published_rows(folder: str) -> list[dict]:
    """What `samples.jsonl` lists; nothing where it is not published."""
    try:
        listing = storage.read_bytes(storage.join(folder, "samples.jsonl"))
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in listing.splitlines()]


def verify_samples(folder: str, rows: Sequence[dict]) -> None:
    """`UserError` names the first video that is missing or changed."""
    for row in rows:
        if not is_intact(folder, row):
            uri = storage.join(folder, row["file"])
            raise UserError(
                f"{uri} is missing or changed: run jobs/sample.py --overwrite to make it again"
            )
