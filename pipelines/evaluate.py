"""Evaluation: how good reconstructions and samples are, beside real clips.

                     ┌── real clips, twice (the second to tell the floor) ──┐
clips ──▶ drawn ─────┼── the same through the tokenizer and back ───────────┼──▶ figures
ldm/NAME ────────────┴── samples, in the proportions of the real clips ─────┘

Workers sample or decode, watch, and hand back features; pixels stay with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import ray

from pipelines import registry, report, tracking
from pipelines.config.scale import local_cpus, ray_options, set_up_ray_data
from pipelines.config.schema import Evaluate, parse_rates
from pipelines.evaluation import figures as measured
from pipelines.evaluation.draw import read_picks
from pipelines.evaluation.figures import Figures, Sets
from pipelines.evaluation.inputs import Inputs, find_inputs
from pipelines.evaluation.observe import (
    Instruments,
    Observation,
    find_kept,
    place,
    unpack,
)
from pipelines.evaluation.portions import (
    Portion,
    reconstruction_portions,
    requests_like,
    sample_portions,
    to_show,
)
from pipelines.evaluation.real import Real, only_rates, refuse_early, watch_real
from pipelines.evaluation.result import headline, result
from pipelines.evaluation.summary import Summary
from pipelines.evaluation.watch import Watch, frame_state, time_sampling
from pipelines.io import shards, storage, workspace
from pipelines.io.shards import Marker
from pipelines.io.video import decode_clip
from pipelines.progress import Progress


def evaluate(config: Evaluate) -> str:
    """Measure ROOT/ldm/NAME and publish ROOT/eval/NAME."""
    config.check()
    inputs = find_inputs(config)
    folder = config.workspace.eval(config.ldm)
    done = workspace.published(folder, "metrics.json")
    if done and not config.overwrite:
        workspace.refuse_other(folder, done["recipe"], inputs.recipe)
    if config.dry_run:
        chosen = config.chosen
        return (
            f"would compare {chosen.repeats} × {chosen.num_samples} samples with real clips "
            f"({config.protocol}), into {folder}"
        )
    if done and not config.overwrite:
        return f"{headline(done['metrics'])} (there already)"

    lineage = {"ldm": inputs.bundle["fingerprint"], "clips": inputs.index["fingerprint"]}
    with tracking.run("evaluate", config, lineage) as run:
        result, shown = measure(inputs)
        card = storage.read_bytes(storage.join(config.workspace.ldm(config.ldm), "MODEL_CARD.md"))
        page = report.page(inputs.bundle, inputs.index["spec"], result, shown, card.decode())
        storage.publish_bytes(page.encode(), storage.join(folder, "report.html"))
        storage.publish_json(result, storage.join(folder, "metrics.json"))
        run.bytes(page.encode(), "report.html")
        run.bytes(report.grid_of(shown), "comparison.gif")
        run.metrics(result["metrics"])
        run.output(inputs.recipe)
        fingerprint = inputs.bundle["fingerprint"]
        print(registry.judge(run, config.workspace.root, fingerprint, result), flush=True)
    return headline(result["metrics"])


def measure(inputs: Inputs) -> tuple[dict[str, Any], report.Shown]:
    """Everything that is measured, and the videos to show with it."""
    config, chosen, wanted = inputs.config, inputs.config.chosen, set(inputs.config.wanted)
    classes = inputs.bundle["classes"]
    markers = shards.load_markers(config.workspace.clips, inputs.index, "shard_videos")
    judged = "accuracy" in wanted and len(classes) > 1
    instruments = Instruments(
        inputs.detector,
        inputs.classifier,
        frame_state(inputs, markers) if judged else None,
        inputs.lpips,
        "motion" in wanted,
        "ssim" in wanted,
    )
    figures = Figures(strict=config.metrics != "all")
    real = watch_real(inputs, instruments, markers, watched)
    only_rates(config, inputs.bundle["fps"], real)
    refuse_early(figures, inputs, real)
    sets, shown = watch_model(inputs, instruments, markers, real)

    left = [name for name in config.wanted if name not in figures.not_measured]
    if inputs.detector:
        measured.distances(figures, left, sets, chosen, inputs.detector.name)
        measured.memorising(figures, sets, real.train_MD, chosen.real_split == "val")
    if inputs.classifier:
        measured.scores(figures, sets, inputs.classifier.name)
    measured.scalars(figures, left, sets)
    pace = measure_speed(config)
    return result(inputs, figures, sets, pace), shown


def watched(
    inputs: Inputs, instruments: Instruments, portions: Sequence[Portion]
) -> Iterator[tuple[Portion, Observation]]:
    """Every portion with what was seen in it: first those kept, then as workers finish them."""
    watch = Progress("videos", sum(len(portion.indices) for portion in portions))
    for portion, data in _everything(inputs, instruments, portions):
        watch.add(len(portion.indices))
        yield portion, unpack(data)


def _everything(
    inputs: Inputs, instruments: Instruments, portions: Sequence[Portion]
) -> Iterator[tuple[Portion, bytes]]:
    folder = inputs.config.workspace.features
    there = {file.uri for file in storage.walk(folder)}
    left = []
    for portion in portions:
        known = place(folder, portion.key) in there
        data = find_kept(folder, portion.key) if known else None
        if data is None:
            left.append(portion)
        else:
            yield portion, data
    if left:  # no worker is started for what is known
        yield from _by_workers(inputs, instruments, left)


def _by_workers(
    inputs: Inputs, instruments: Instruments, portions: Sequence[Portion]
) -> Iterator[tuple[Portion, bytes]]:
    ray.init(**ray_options())
    set_up_ray_data(ray.data.DataContext.get_current())
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    workers = inputs.config.num_workers or gpus or int(resources.get("CPU", 1))
    workers = max(1, min(workers, len(portions)))
    # Rows are numbers and bytes, which Ray passes on without pickling.
    rows = [{"place": number} for number in range(len(portions))]
    graph = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Watch,  # type: ignore[arg-type]
        fn_constructor_args=(inputs, instruments, portions, max(1, local_cpus() // workers)),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
        concurrency=workers,
    )
    for row in graph.iter_rows():
        yield portions[row["place"]], row["seen"]


def watch_model(
    inputs: Inputs, instruments: Instruments, markers: Sequence[Marker], real: Real
) -> tuple[Sets, report.Shown]:
    """Watch reconstructions and samples; keep those that go on the report."""
    config, chosen = inputs.config, inputs.config.chosen
    classes = inputs.bundle["classes"]
    rates = parse_rates(config.fps, "all") if config.fps != "all" else None
    among = np.isin(real.fps_N, rates) if rates else np.full(len(real.fps_N), True)
    portions, labels = [], {}
    for repeat in range(chosen.repeats):
        requests = requests_like(
            real.class_index_N[among], real.fps_N[among], classes, chosen.num_samples, repeat
        )
        if repeat == 0:
            labels = dict(enumerate(requests))
        portions += sample_portions(inputs, instruments, requests, repeat)
    rates_shown = {request.label: request.fps for request in to_show(list(labels.values()))}
    portions += reconstruction_portions(
        inputs, instruments, markers, real.picks, real.class_index_N, real.fps_N, rates_shown
    )
    sets = Sets(
        real.summary,
        real.floor,
        Summary("reconstructed clips", len(real.picks), 1, config.seed),
        [
            Summary(f"samples of repeat {r}", chosen.num_samples, chosen.is_splits, config.seed)
            for r in range(chosen.repeats)
        ],
    )
    shown = report.Shown()
    for portion, seen in watched(inputs, instruments, portions):
        indices = np.array(portion.indices)
        if portion.requests:
            sets.samples[int(portion.group.split()[1])].add(seen, indices)
            for i, video in zip(portion.show, seen.get("shown", ()), strict=True):
                request = labels[portion.indices[i]]
                row = seen["features"][i] if "features" in seen else None
                shown.samples.append(report.Sample(request.label, request.fps, video, row))
        else:
            sets.reconstructed.add(seen, indices)
            for i, x, y in zip(portion.show, seen["shown"], seen["shown_made"], strict=True):
                k = portion.indices[i]
                label = classes[real.class_index_N[k]] if classes else None
                shown.real.append(report.Pair(label, float(real.fps_N[k]), x, y))
    _neighbours(inputs, markers, real, shown)
    return sets, shown


def _neighbours(inputs: Inputs, markers: Sequence[Marker], real: Real, shown: report.Shown) -> None:
    """Find and read the training clip nearest to each sample on the report."""
    if real.train_MD is None:
        return
    by_name = {marker.name: marker for marker in markers}
    for sample in shown.samples:
        assert sample.features_D is not None
        near = measured.nearest(sample.features_D[None], real.train_MD)
        pick = real.train_picks[int(near.index_N[0])]
        (clip,) = read_picks(inputs.config.workspace.clips, by_name[pick.shard], [pick])
        sample.nearest, sample.distance = decode_clip(clip.mp4), float(near.distance_N[0])
        sample.nearest_source, sample.nearest_fps = clip.source, clip.fps


def measure_speed(config: Evaluate) -> dict[str, Any]:
    """As `time_sampling`, in a worker where the GPUs are."""
    ray.init(**ray_options())
    gpus = int(ray.cluster_resources().get("GPU", 0))
    task = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0)(time_sampling)
    return ray.get(task.remote(config))
