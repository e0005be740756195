"""Evaluation: the quality of reconstructions and samples, compared with real clips.

    clips ──▶ real clips, others for the floor ─┐
              the same through the tokenizer ───┼─▶ features ─▶ statistics ─▶ metrics ─▶ report
    ldm/NAME ─▶ samples in their proportions ───┘

Workers sample or decode, and return features; pixels stay in the workers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ray

from pipelines.cluster.devices import Devices
from pipelines.cluster.placement import choose_devices, describe_devices, settle_precision
from pipelines.evaluation import report, sweep
from pipelines.evaluation.inputs import Inputs, find_inputs
from pipelines.evaluation.measure import by_captions, extract_reference, measure_model
from pipelines.evaluation.result import headline, result
from pipelines.evaluation.settings import Evaluate
from pipelines.evaluation.speed import time_sampling
from pipelines.io import lock, other_settings, storage, workspace
from pipelines.tracking import registry
from pipelines.tracking.start import start_run


def evaluate(config: Evaluate) -> str:
    """Measure ROOT/ldm/NAME and publish ROOT/eval/NAME."""
    config.check()
    if config.sweep:
        return sweep.run(config)
    inputs = find_inputs(config)
    config = inputs.config
    inputs.tell_notes()
    folder = inputs.folder
    done = workspace.published(folder, "metrics.json")
    if done and not config.overwrite:
        differing = other_settings.changed(done.get("settings", config.recipe()), config.recipe())
        other_settings.refuse_other(folder, done["recipe"], inputs.recipe, differing)
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
    with reading, lock.writing(folder, "evaluate") as owner, run_of_job as run:
        inputs = replace(inputs, owner=owner)
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


def compare(inputs: Inputs, devices: Devices) -> tuple[dict[str, Any], report.ReportClips]:
    """The content of `metrics.json`, and the videos on the report."""
    found = measure_model(inputs, extract_reference(inputs, devices), devices)
    speed = measure_speed(inputs, devices)
    return result(inputs, found.metrics, found.sets, found.videos, speed), found.shown


def measure_speed(inputs: Inputs, devices: Devices) -> dict[str, Any]:
    """Run `time_sampling` in a worker."""
    task = ray.remote(num_cpus=1, num_gpus=devices.gpus_per_worker)(time_sampling)
    precision = settle_precision(devices)
    return ray.get(task.remote(inputs.config, devices, precision, inputs.captions is not None))
