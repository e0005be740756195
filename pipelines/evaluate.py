"""Evaluation: the quality of reconstructions and samples, compared with real clips.

    clips ──▶ real clips, others for the floor ─┐
              the same through the tokenizer ───┼─▶ features ─▶ statistics ─▶ metrics ─▶ report
    ldm/NAME ─▶ samples in their proportions ───┘

Workers sample or decode, and return features; pixels stay in the workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import ray
from numpy.typing import NDArray

from pipelines.cluster.devices import Devices
from pipelines.cluster.join import set_up_ray_data
from pipelines.cluster.placement import choose_devices, describe_devices
from pipelines.evaluation import metrics as measure
from pipelines.evaluation import report, sweep
from pipelines.evaluation.batches import (
    Batch,
    clips_to_show,
    reconstruction_batches,
    requests_like,
    sample_batches,
    to_show,
)
from pipelines.evaluation.estimates import Estimate
from pipelines.evaluation.features import Features, FeatureSpec, cache_uri, find_cached, unpack
from pipelines.evaluation.inputs import Inputs, find_inputs
from pipelines.evaluation.memorisation import Search, memorisation
from pipelines.evaluation.metrics import Metrics, Sets
from pipelines.evaluation.real_clips import (
    RealClips,
    check_rates,
    draw_clips,
    extract_real_clips,
)
from pipelines.evaluation.result import headline, result
from pipelines.evaluation.settings import Evaluate
from pipelines.evaluation.speed import time_sampling
from pipelines.evaluation.statistics import Statistics
from pipelines.evaluation.worker import FeatureWorker, frame_classifier_state, read_clips
from pipelines.io import lock, storage, workspace
from pipelines.io.markers import Marker, load_markers
from pipelines.io.progress import Progress
from pipelines.sampling.worker import Request, title_of
from pipelines.tracking import registry
from pipelines.tracking.start import start_run
from pipelines.video.encoder import decode_clip


def evaluate(config: Evaluate) -> str:
    """Measure ROOT/ldm/NAME and publish ROOT/eval/NAME."""
    config.check()
    if config.sweep:
        return sweep.run(config, fvd_by)
    inputs = find_inputs(config)
    config = inputs.config
    inputs.tell_notes()
    folder = config.workspace.eval(config.ldm)
    done = workspace.published(folder, "metrics.json")
    if done and not config.overwrite:
        differing = workspace.changed(done.get("settings", config.recipe()), config.recipe())
        workspace.refuse_other(folder, done["recipe"], inputs.recipe, differing)
    if config.dry_run:
        chosen = config.chosen
        print(describe_devices(config.request()))
        return (
            f"would compare {chosen.repeats} × {chosen.num_samples} samples with real clips "
            f"({config.protocol}{by_captions(inputs)}), into {folder}"
        )
    if done and not config.overwrite:
        return f"{headline(done['metrics'])} (there already)"

    lineage = {"ldm": inputs.bundle["fingerprint"], "clips": inputs.index["fingerprint"]}
    space = config.workspace
    reading = lock.reading("evaluate", space.clips, space.ldm(config.ldm))
    run_of_job = start_run("evaluate", config, lineage)
    with reading, lock.writing(folder, "evaluate"), run_of_job as run:
        result, shown = compare(inputs, choose_devices(config.request()))
        card = storage.read_bytes(storage.join(space.ldm(config.ldm), "MODEL_CARD.md"))
        page = report.page(inputs.bundle, inputs.index["spec"], result, shown, card.decode())
        lock.refuse_taken(folder)
        storage.publish_bytes(page.encode(), storage.join(folder, "report.html"))
        storage.publish_json(result, storage.join(folder, "metrics.json"))
        run.bytes(page.encode(), "report.html")
        run.bytes(report.grid_of(shown), "comparison.gif")
        run.metrics(result["metrics"])
        run.output(inputs.recipe)
        if inputs.doubt:
            verdict = "not compared with the champion: see the note above"
        else:
            verdict = registry.judge(run, space.root, inputs.bundle["fingerprint"], result)
        print(verdict, flush=True)
    return headline(result["metrics"])


def fvd_by(inputs: Inputs, devices: Devices) -> Callable[[Inputs], tuple[Estimate, int]]:
    """A function that measures the FVD of one way of sampling, and tells the number of real clips.

    The inputs it takes differ from these in settings of sampling only.
    """
    assert inputs.detector
    reference, name = extract_reference(inputs, devices), measure.named("fvd", inputs.detector.name)

    def measure_fvd(inputs: Inputs) -> tuple[Estimate, int]:
        found = measure_model(inputs, reference, devices)
        return found.metrics.values[name], found.sets.real.count

    return measure_fvd


def compare(inputs: Inputs, devices: Devices) -> tuple[dict[str, Any], report.ReportClips]:
    """The content of `metrics.json`, and the videos on the report."""
    found = measure_model(inputs, extract_reference(inputs, devices), devices)
    speed = measure_speed(inputs, devices)
    return result(inputs, found.metrics, found.sets, found.videos, speed), found.shown


class Measured(NamedTuple):
    """What was measured of one model."""

    metrics: Metrics
    sets: Sets
    videos: int
    """Videos that the real clips were drawn from."""
    shown: report.ReportClips


class Reference(NamedTuple):
    """What samples are compared with, however they are made."""

    markers: list[Marker]
    spec: FeatureSpec
    real: RealClips
    metrics: Metrics
    """Nothing but what cannot be measured."""


def extract_reference(inputs: Inputs, devices: Devices) -> Reference:
    """The features of real clips; refuses what cannot be measured, before hours of sampling."""
    config, wanted = inputs.config, set(inputs.config.wanted)
    markers = load_markers(config.workspace.clips, inputs.index, "shard_videos")
    judged = "accuracy" in wanted and len(inputs.bundle["classes"]) > 1
    metrics = Metrics(strict=config.metrics != "all")
    by_workers = partial(extract, devices=devices)
    drawn = draw_clips(inputs, markers, by_workers)
    if {"fvd", "rfvd"} & wanted:
        measure.refuse_too_few(metrics, inputs, len(drawn.refs), inputs.feature_width)
    frames: list[bytes] = []
    if judged:
        say(f"a classifier learns to tell the classes of frames, {config.detector_steps} steps")
        metrics.attempt(
            "accuracy", lambda: frames.append(frame_classifier_state(inputs, markers, drawn))
        )
    spec = FeatureSpec(
        inputs.detector,
        inputs.classifier,
        frames[0] if frames else None,
        inputs.lpips,
        "motion" in wanted and inputs.shows_digits,
        "ssim" in wanted,
        "memorisation" in wanted and config.num_train != 0,
    )
    say(f"features of {len(drawn.refs)} real clips, and thumbnails of what is searched for copies")
    real = extract_real_clips(inputs, spec, markers, drawn, by_workers)
    check_rates(config, inputs.bundle, real)
    measure.refuse_early(metrics, inputs, real)
    return Reference(markers, spec, real, metrics)


def measure_model(inputs: Inputs, reference: Reference, devices: Devices) -> Measured:
    """Features of reconstructions and samples, and what they say beside those of real clips."""
    config, chosen = inputs.config, inputs.config.chosen
    markers, spec, real, refused = reference
    metrics = replace(refused, values={}, not_measured=dict(refused.not_measured))
    wanted_samples = f"{chosen.repeats} × {chosen.num_samples} samples in {config.steps} steps"
    say(f"{wanted_samples}{by_captions(inputs)}, reconstructions, and their features")
    sets, shown, thumbnails_ND = extract_model(inputs, spec, markers, real, devices)

    left = [name for name in config.wanted if name not in metrics.not_measured]
    if inputs.detector:
        measure.distances(metrics, left, sets, chosen, inputs.detector.name)
    if inputs.classifier:
        measure.scores(metrics, sets, inputs.classifier.name)
    measure.scalars(metrics, left, sets)
    if thumbnails_ND is not None and real.train:
        samples, held_out = search(inputs, spec, real, thumbnails_ND, devices)
        memorisation(metrics, samples, held_out)
        _add_neighbours(inputs, markers, samples, shown)
    for name, reason in sorted(metrics.not_measured.items()):
        say(f"{name} is not measured: {reason}")
    return Measured(metrics, sets, real.videos, shown)


def by_captions(inputs: Inputs) -> str:
    """What is said of samples that are told captions."""
    return ", told the captions of real clips" if inputs.captions else ""


def say(line: str) -> None:
    """Print at once: some of what is measured takes minutes."""
    print(line, flush=True)


def extract(
    inputs: Inputs, spec: FeatureSpec, batches: Sequence[Batch], devices: Devices
) -> Iterator[tuple[Batch, Features]]:
    """The features of every batch: first the cached ones, then as workers finish them."""
    progress = Progress("videos", sum(len(batch.indices) for batch in batches))
    for batch, data in _cached_or_by_workers(inputs, spec, batches, devices):
        progress.add(len(batch.indices))
        yield batch, unpack(data)


def _cached_or_by_workers(
    inputs: Inputs, spec: FeatureSpec, batches: Sequence[Batch], devices: Devices
) -> Iterator[tuple[Batch, bytes]]:
    folder = inputs.config.workspace.features
    there = {file.uri for file in storage.walk(folder)}
    left = []
    for batch in batches:
        known = cache_uri(folder, batch.key) in there
        data = find_cached(folder, batch.key) if known else None
        if data is None:
            left.append(batch)
        else:
            yield batch, data
    if left:  # Otherwise no worker is started.
        yield from _by_workers(inputs, spec, left, devices)


def _by_workers(
    inputs: Inputs, spec: FeatureSpec, batches: Sequence[Batch], devices: Devices
) -> Iterator[tuple[Batch, bytes]]:
    set_up_ray_data(ray.data.DataContext.get_current())
    # Rows are numbers and bytes, which Ray passes on without pickling.
    rows = [{"batch": number} for number in range(len(batches))]
    graph = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        FeatureWorker,  # type: ignore[arg-type]
        fn_constructor_args=(inputs, spec, batches, devices),
        num_cpus=1,
        num_gpus=devices.gpus_per_worker,
        concurrency=min(devices.workers, len(batches)),
    )
    for row in graph.iter_rows():
        yield batches[row["batch"]], row["features"]


def extract_model(
    inputs: Inputs,
    spec: FeatureSpec,
    markers: Sequence[Marker],
    real: RealClips,
    devices: Devices,
) -> tuple[Sets, report.ReportClips, NDArray[np.uint8] | None]:
    """Features of reconstructions and samples, the videos for the report, and thumbnails of the
    samples of the first repeat."""
    config, chosen = inputs.config, inputs.config.chosen
    classes = inputs.bundle["classes"]
    batches, first, made, told = [], list[Request](), [], 0
    for repeat in range(chosen.repeats):
        requests = requests_like(
            real.class_index_N, real.fps_N, real.captions, classes, chosen.num_samples, repeat
        )
        first = first or requests
        told += sum(request.prompt is not None for request in requests)
        strata = np.unique([each.label or "" for each in requests], return_inverse=True)[1]
        name = f"samples of repeat {repeat}"
        made.append(
            Statistics(name, chosen.num_samples, chosen.is_splits, config.seed, strata=strata)
        )
        batches += sample_batches(inputs, spec, requests, repeat, devices)
    show = clips_to_show(real.class_index_N, real.fps_N, real.captions, classes, to_show(first))
    batches += reconstruction_batches(inputs, spec, markers, real.refs, show)
    sets = Sets(
        real.statistics,
        real.floor,
        Statistics("reconstructed clips", len(real.refs), 1, config.seed),
        made,
        told,
        real.only_at,
    )
    shown, thumbnails = report.ReportClips(), dict[int, NDArray[np.uint8]]()
    for batch, found in extract(inputs, spec, batches, devices):
        indices = np.array(batch.indices)
        if batch.requests:
            sets.samples[int(batch.group.split()[1])].add(found, indices)
            for i, video in zip(batch.show, found.get("shown", ()), strict=True):
                place = batch.indices[i]
                request = first[place]
                shown.samples.append(report.Sample(request.title, request.fps, video, place))
            if batch.group == "samples 0" and spec.thumbnails:
                thumbnails |= dict(zip(batch.indices, found["thumbnails"], strict=True))
        else:
            sets.reconstructed.add(found, indices)
            for i, x, y in zip(batch.show, found["shown"], found["shown_made"], strict=True):
                k = batch.indices[i]
                label = classes[real.class_index_N[k]] if classes else None
                title = title_of(label, real.captions[k])
                shown.real.append(report.Pair(title, float(real.fps_N[k]), x, y))
    rows = [thumbnails[place] for place in sorted(thumbnails)]
    return sets, shown, np.stack(rows) if rows else None


def search(
    inputs: Inputs,
    spec: FeatureSpec,
    real: RealClips,
    thumbnails_ND: NDArray[np.uint8],
    devices: Devices,
) -> tuple[Search, Search | None]:
    """Search all training clips for the nearest to each sample, and to each held-out clip."""
    mirror = inputs.trained_on_mirror_images
    samples = Search(thumbnails_ND, mirror)
    held_out = None if real.held_out_ND is None else Search(real.held_out_ND, mirror)
    for batch, found in extract(inputs, spec, real.train, devices):
        for each in filter(None, (samples, held_out)):
            each.add(found["thumbnails"], batch.refs)
    return samples, held_out


def _add_neighbours(
    inputs: Inputs, markers: Sequence[Marker], search: Search, shown: report.ReportClips
) -> None:
    """Read the training clip nearest to each sample on the report."""
    by_name = {marker.name: marker for marker in markers}
    for sample in shown.samples:
        ref = search.nearest[sample.place]
        if ref is None:
            continue
        (clip,) = read_clips(inputs.config.workspace.clips, by_name[ref.shard], [ref])
        sample.nearest, sample.nearest_source = decode_clip(clip.video), clip.source
        sample.nearest_fps = clip.fps
        sample.distance = float(search.distance_N[sample.place])
        sample.relative = float(search.relative_N[sample.place])


def measure_speed(inputs: Inputs, devices: Devices) -> dict[str, Any]:
    """Run `time_sampling` in a worker."""
    task = ray.remote(num_cpus=1, num_gpus=devices.gpus_per_worker)(time_sampling)
    return ray.get(task.remote(inputs.config, devices, inputs.captions is not None))
